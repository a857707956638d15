"""The Super Learner: a committee that learns, from predictions of unseen rows, how far to trust each member."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils.validation import check_is_fitted

from scimeta.ensembles.blend import Weights, learn_blend, row_log_losses, row_losses
from scimeta.ensembles.committee import Committee, check_labels, check_target

if TYPE_CHECKING:
    import pandas as pd


class SuperLearnerRegressor(RegressorMixin, Committee):
    """Weighted mean of candidates, with weights learned on predictions of rows that the candidates had not seen.

    Anything with ``fit`` and ``predict`` is a candidate: a pipeline, a calibrated law, an object of one's own. One that
    fails in any fold is dropped with a warning that names it.

    Args:
        estimators: (name, candidate) pairs; "drop" in place of a candidate leaves it out.
        weights: "auto" (simplex, unless affine wins by more than one paired standard error), "discrete" (the best
            candidate alone), "nnls" (non-negative, divided by their sum; bold where nothing can be known, since tiny
            weights are blown up), "simplex" (non-negative, sum 1), "affine" (any sign, with an intercept, near the
            simplex where rows are few), or a function of (Z, y, sample_weight) that returns (candidates,) non-negative
            weights.
        cv: number of folds (5 if None, fewer of fewer groups; whole groups if groups are given), splitter, or iterable
            of (train, test). With time-ordered folds the rows that none holds out take no part in learning the weights.
        n_jobs: of joblib; ``joblib.parallel_config`` chooses the engine ("loky", "threading", "dask", "ray").
        verbose: of joblib.

    Attributes:
        weights_: (candidates,) in the order of ``names_``.
        intercept_: in the unit of y; 0 unless affine.
        blend_: the :class:`~scimeta.ensembles.blend.Blend`; its ``method`` says what "auto" chose.
        risks_: (candidates,) cross-validated mean squared error.
        names_, dropped_, estimators_, named_estimators_, cross_fit_: see :class:`Committee`.

    Reference: van der Laan, Polley, Hubbard, Super Learner, Stat. Appl. Genet. Mol. Biol. 6, 25 (2007).

    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.arange(20.0)[:, None]
    >>> learner = SuperLearnerRegressor([("mean", DummyRegressor()), ("line", LinearRegression())])
    >>> learner.fit(x, 3 * x.ravel()).weights_
    array([0., 1.])
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        weights: Weights = "auto",
        *,
        cv: int | BaseCrossValidator | Iterable | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimators = estimators
        self.weights = weights
        self.cv = cv
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> SuperLearnerRegressor:
        """Fit the candidates out of fold, the weights on that, and the candidates again on all rows.

        Args:
            X: n rows, of any kind that the candidates read.
            y: (n,) finite numbers.
            sample_weight: (n,) non-negative; for the candidates whose ``fit`` takes it and for the weights.
            groups: (n,) whose row it is, for the splitter: a new subject is predicted by models that never saw it; for
                the candidates whose ``fit`` takes them, such as a committee or a search with ``cv=GroupKFold()``; and
                for the standard error that "auto" goes by. Inside a pipeline or a search, with metadata
                routing on, ask for them by ``set_fit_request(groups=True)``.

        Raises:
            ValueError: y that is not finite, more folds than rows or groups, negative weights, an unknown ``weights``,
                or no candidate that works.
        """
        y = check_target(self, X, y)
        Z, held_y, w, folds = self.cross_fit_candidates(X, y, sample_weight, groups, "predict")
        whose = self.held_groups(groups)
        self.blend_ = learn_blend(Z, held_y, self.weights, sample_weight=w, folds=folds, groups=whose)
        self.weights_, self.intercept_ = self.blend_.weights, self.blend_.intercept
        self.risks_ = np.average(row_losses(Z, held_y), axis=0, weights=w)
        return self

    def predict(self, X: Any) -> ndarray:
        """Return (n,) predictions, in the unit of y."""
        check_is_fitted(self)
        return self.blend_(self.level_one(X, self.weights_ != 0))

    def to_frame(self) -> pd.DataFrame:
        """Return one row a candidate: weight and cross-validated risk (mean squared error)."""
        return _frame(self)


class SuperLearnerClassifier(ClassifierMixin, Committee):
    """Combined probabilities of candidates, with weights learned on rows that the candidates had not seen.

    A candidate is anything with ``fit`` and ``predict_proba``; wrap others in
    :class:`sklearn.calibration.CalibratedClassifierCV`. Probabilities are combined as they are, however small: rare
    events keep their prevalence and their order. Only a probability of exactly 0, where another candidate says more,
    counts as 1 / (2 n) on the logit scale, of n rows.

    Args:
        estimators, cv, n_jobs, verbose: as for :class:`SuperLearnerRegressor`; a number of folds keeps the classes in
            proportion.
        weights: "auto" ("cc_nloglik" with intercepts by which as many rows of each class are expected as there were,
            unless affine wins by more than one paired standard error of the log-loss),
            "discrete" (least log-loss), "nnls" and "simplex" (least squares on probabilities), "nnloglik" and
            "cc_nloglik" (greatest likelihood on the logit scale, non-negative or on the simplex), "affine" (logit
            scale, any sign, with intercepts), or a function of (Z, y, sample_weight), Z (n, candidates, classes) and y
            numbers of classes, that returns (candidates,) non-negative weights. "nnloglik" is overconfident on pure
            noise: there the likelihood asks for a sum near 0, and dividing by it makes the committee as bold as before.

    Attributes:
        classes_: (classes,) sorted labels.
        intercept_: 0, or (classes,) on the logit scale if auto or affine.
        risks_: (candidates,) cross-validated log-loss; a probability of exactly 0 counts as 1 / (2 n).
        weights_, blend_ and others: as for :class:`SuperLearnerRegressor`.

    Reference: van der Laan, Polley, Hubbard, Super Learner, Stat. Appl. Genet. Mol. Biol. 6, 25 (2007).

    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
    >>> learner = SuperLearnerClassifier([("prior", DummyClassifier()), ("logistic", LogisticRegression())])
    >>> learner.fit(x, x.ravel() > 0).predict([[-0.9], [0.9]])
    array([False,  True])
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        weights: Weights = "auto",
        *,
        cv: int | BaseCrossValidator | Iterable | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimators = estimators
        self.weights = weights
        self.cv = cv
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> SuperLearnerClassifier:
        """Fit the candidates out of fold, the weights on that, and the candidates again on all rows.

        Args:
            X: n rows, of any kind that the candidates read.
            y: (n,) labels of at least two classes.
            sample_weight: (n,) non-negative; for the candidates whose ``fit`` takes it and for the weights.
            groups: (n,) whose row it is, as of :meth:`SuperLearnerRegressor.fit`.

        Raises:
            ValueError: as :meth:`SuperLearnerRegressor.fit`, or one class only.
        """
        y, self.classes_, encoded = check_labels(self, X, y)
        Z, _, w, folds = self.cross_fit_candidates(X, y, sample_weight, groups, "predict_proba")
        held = encoded[self.cross_fit_.held]
        whose = self.held_groups(groups)
        self.blend_ = learn_blend(Z, held, self.weights, sample_weight=w, folds=folds, groups=whose)
        self.weights_, self.intercept_ = self.blend_.weights, self.blend_.intercept
        self.risks_ = np.average(row_log_losses(Z, held), axis=0, weights=w)
        return self

    def predict_proba(self, X: Any) -> ndarray:
        """Return (n, classes) probabilities, in the order of ``classes_``."""
        check_is_fitted(self)
        return self.blend_(self.level_one(X, self.weights_ != 0))

    def predict(self, X: Any) -> ndarray:
        """Return the (n,) most probable labels."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a candidate: weight and cross-validated risk (log-loss)."""
        return _frame(self)


def _frame(learner: SuperLearnerRegressor | SuperLearnerClassifier) -> pd.DataFrame:
    import pandas as pd

    names = pd.Index(learner.names_, name="candidate")
    return pd.DataFrame({"weight": learner.weights_, "risk": learner.risks_}, index=names)

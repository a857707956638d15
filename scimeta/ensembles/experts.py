"""Mixtures of experts: a committee whose weights depend on the input, where that pays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy import ndarray
from sklearn.base import ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils.validation import check_is_fitted

from scimeta.ensembles.blend import row_log_losses, row_losses
from scimeta.ensembles.committee import check_labels, check_target
from scimeta.ensembles.gate import mixed
from scimeta.ensembles.gated import GatedCommittee
from scimeta.ensembles.weights import balancing_intercept, log_probabilities


class MixtureOfExpertsRegressor(RegressorMixin, GatedCommittee):
    """Weighted mean of experts, with weights w(x) that a gate learned on predictions of rows unseen by the experts.

    The gate starts from the best fixed weights and is pulled towards them; how strongly, and whether it is used at
    all, is decided by the risk on held-out rows. Where no expert is better in one place than in another, that leaves
    the fixed weights of :class:`~scimeta.ensembles.super_learner.SuperLearnerRegressor` with "simplex".

    Args:
        estimators: (name, expert) pairs; "drop" in place of an expert leaves it out. One that fails is dropped with a
            warning that names it.
        gate: "auto" (the better of the two next), "linear" or "network" (softmax of a linear function of the
            features' ranks, or of that and a hidden layer), or "fixed".
        features: what the gate reads: None for X itself (a table of numbers), or a transformer that makes such a table
            of X without looking at y.
        top_k: how many experts a row may have; each is then asked only about the rows where it has a say. None for all.
        balance: strength of the pull towards experts that are used equally often; 0 for none.
        margin: by how many standard errors the gate must beat the fixed weights on held-out rows. Of many gates tried
            one gains one standard error by luck.
        hidden: units of the network.
        cv: number of folds (5 if None, fewer of fewer groups; whole groups if groups are given), splitter, or iterable
            of (train, test); "prefit" for experts that are fitted already, on other rows. To freeze only some, or where
            the mixture itself is cloned (grid search), wrap them in :class:`sklearn.frozen.FrozenEstimator` instead.
        random_state: of the network's start, and of the folds on which a gate over prefitted experts is judged.
        n_jobs: of joblib, for the experts.
        verbose: of joblib.

    Attributes:
        gate_: the :class:`~scimeta.ensembles.gate.Gate`; its ``kind`` and ``penalty`` say what was chosen.
        choice_: the :class:`~scimeta.ensembles.gate_choice.GateChoice`: the risks of all gates tried.
        weights_: (experts,) the best fixed weights, in the order of ``names_``.
        mean_weights_: (experts,) the gate's weights, mean over the rows.
        risks_: (experts,) cross-validated mean squared error.
        names_, dropped_, estimators_, named_estimators_, cross_fit_: see
            :class:`~scimeta.ensembles.committee.Committee`.

    Reference: Jacobs, Jordan, Nowlan, Hinton, Adaptive mixtures of local experts, Neural Computation 3, 79 (1991).

    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.dummy import DummyRegressor
    >>> x = np.linspace(-1.0, 1.0, 100)[:, None]
    >>> left = LinearRegression().fit(x[:50], -x[:50].ravel())
    >>> right = DummyRegressor(strategy="constant", constant=0.5).fit(x, x.ravel())
    >>> experts = MixtureOfExpertsRegressor([("left", left), ("right", right)], cv="prefit", random_state=0)
    >>> experts.fit(x, np.where(x < 0, -x, 0.5).ravel()).weights([[-0.8], [0.8]]).round(2)
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        gate: str = "auto",
        *,
        features: TransformerMixin | None = None,
        top_k: int | None = None,
        balance: float = 0.0,
        margin: float = 2.0,
        hidden: int = 8,
        cv: int | BaseCrossValidator | Iterable | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimators = estimators
        self.gate = gate
        self.features = features
        self.top_k = top_k
        self.balance = balance
        self.margin = margin
        self.hidden = hidden
        self.cv = cv
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> MixtureOfExpertsRegressor:
        """Fit the experts out of fold, the gate on that, and the experts again on all rows.

        Args:
            X: n rows, of any kind that the experts read, and the gate (or ``features``).
            y: (n,) finite numbers.
            sample_weight: (n,) non-negative; for the experts whose ``fit`` takes it and for the gate.
            groups: (n,) whose row it is, for the splitter, the experts whose ``fit`` takes them, and the standard error
                of the gate's gain.

        Raises:
            ValueError: y that is not finite, more folds than rows or groups, negative weights, an X that the gate
                cannot read, an unknown ``gate``, numbers out of range, or no expert that works.
            sklearn.exceptions.NotFittedError: with ``cv="prefit"``, an expert that is not fitted.
        """
        y = check_target(self, X, y)
        level = self.fit_gate(X, y, y, sample_weight, groups, "predict")
        self.risks_ = np.average(row_losses(level.Z, level.y), axis=0, weights=level.weights)
        return self

    def predict(self, X: Any) -> ndarray:
        """Return (n,) predictions, in the unit of y."""
        check_is_fitted(self)
        weights = self.weights(X)
        return mixed(self.ask(X, weights), weights)


class MixtureOfExpertsClassifier(ClassifierMixin, GatedCommittee):
    """Combined probabilities of experts, softmax(c + sum_j w_j(x) log p_j), with weights that a gate learned.

    By the intercepts c as many rows of each class are expected as there were. What holds of
    :class:`MixtureOfExpertsRegressor` holds here, with the log-loss for the squared error and "cc_nloglik" for
    "simplex". An expert is anything with ``fit`` and ``predict_proba``.

    Args:
        estimators, gate, features, top_k, balance, margin, hidden, cv, random_state, n_jobs, verbose: as for
            :class:`MixtureOfExpertsRegressor`; a number of folds keeps the classes in proportion.

    Attributes:
        classes_: (classes,) sorted labels.
        risks_: (experts,) cross-validated log-loss; a probability of exactly 0 counts as 1 / (2 n).
        intercept_: (classes,) c.
        zero_: (experts,) what a probability of exactly 0 counts as where another expert says more; those above 0 count
            as they are.
        gate_, choice_, weights_, mean_weights_ and others: as for :class:`MixtureOfExpertsRegressor`.

    Reference: Jacobs, Jordan, Nowlan, Hinton, Adaptive mixtures of local experts, Neural Computation 3, 79 (1991).

    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.linspace(-1.0, 1.0, 40)[:, None]
    >>> experts = [("prior", DummyClassifier()), ("logistic", LogisticRegression())]
    >>> MixtureOfExpertsClassifier(experts, random_state=0).fit(x, x.ravel() > 0).predict([[-0.9], [0.9]])
    array([False,  True])
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        gate: str = "auto",
        *,
        features: TransformerMixin | None = None,
        top_k: int | None = None,
        balance: float = 0.0,
        margin: float = 2.0,
        hidden: int = 8,
        cv: int | BaseCrossValidator | Iterable | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimators = estimators
        self.gate = gate
        self.features = features
        self.top_k = top_k
        self.balance = balance
        self.margin = margin
        self.hidden = hidden
        self.cv = cv
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> MixtureOfExpertsClassifier:
        """Fit the experts out of fold, the gate on that, and the experts again on all rows.

        Args:
            X: n rows, of any kind that the experts read, and the gate (or ``features``).
            y: (n,) labels of at least two classes.
            sample_weight: (n,) non-negative; for the experts whose ``fit`` takes it and for the gate.
            groups: (n,) whose row it is, for the splitter, the experts whose ``fit`` takes them, and the standard error
                of the gate's gain.

        Raises:
            ValueError: as :meth:`MixtureOfExpertsRegressor.fit`, or one class only.
            sklearn.exceptions.NotFittedError: with ``cv="prefit"``, an expert that is not fitted.
        """
        y, self.classes_, encoded = check_labels(self, X, y)
        level = self.fit_gate(X, y, encoded, sample_weight, groups, "predict_proba")
        scores = np.einsum("ijc,ij->ic", log_probabilities(level.Z), self.gate_(level.features))
        self.intercept_ = balancing_intercept(scores, level.y, level.weights)
        self.risks_ = np.average(row_log_losses(level.Z, level.y), axis=0, weights=level.weights)
        return self

    def predict_proba(self, X: Any) -> ndarray:
        """Return (n, classes) probabilities, in the order of ``classes_``."""
        check_is_fitted(self)
        weights = self.weights(X)
        return mixed(self.ask(X, weights), weights, self.zero_, self.intercept_)

    def predict(self, X: Any) -> ndarray:
        """Return the (n,) most probable labels."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

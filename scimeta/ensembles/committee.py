"""What scikit-learn estimators made of named candidates have in common: parameters, routing, the level-one matrix."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy import ndarray
from sklearn import get_config
from sklearn.base import MetaEstimatorMixin, TransformerMixin
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, column_or_1d, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from scimeta.ensembles.candidates import (
    Method,
    check_candidates,
    fit_arguments,
    fit_candidates,
    predict_candidates,
)
from scimeta.ensembles.cross_fit import CrossFit, cross_fit
from scimeta.ensembles.level_one import numbered
from scimeta.ensembles.weights import check_sample_weight


class Committee(TransformerMixin, MetaEstimatorMixin, _BaseComposition):
    """Mixin for estimators with parameters ``estimators``, ``cv``, ``n_jobs`` and ``verbose``.

    Attributes (after :meth:`cross_fit_candidates`):
        cross_fit_: :class:`~scimeta.ensembles.cross_fit.CrossFit` of the candidates that are left.
        estimators_: the candidates that are left, fitted on all rows.
        named_estimators_: the same by name.
        names_: their names, in the order of the weights.
        dropped_: name -> why a candidate was dropped.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; those of the candidates as ``name__parameter``."""
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Committee:
        """Set parameters by name: one's own, a candidate (or "drop" for it), or a candidate's (``name__parameter``)."""
        self._set_params("estimators", **params)
        return self

    @property
    def named_estimators(self) -> Bunch:
        """The candidates by name, as given."""
        return Bunch(**dict(self.estimators))

    def cross_fit_candidates(
        self, X: Any, y: ndarray, sample_weight: Any, groups: Any, method: Method
    ) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Fit the candidates out of fold and on all rows; those that fail at either are dropped.

        Returns: level-one matrix, target, sample weights and folds, of the rows that some fold holds out.
        """
        self._validate_names([name for name, _ in check_candidates(self.estimators)])
        weights = check_sample_weight(sample_weight, len(y))
        params, groups = self._routed(None if sample_weight is None else weights, groups)
        options = {"n_jobs": self.n_jobs, "params": params, "verbose": self.verbose}
        crossed = cross_fit(self.estimators, X, y, cv=self.cv, groups=groups, method=method, **options)
        left = [(name, candidate) for name, candidate in self.estimators if name in crossed.names]
        if not weights[crossed.held].any():
            raise ValueError("sample_weight is zero in all rows that a fold holds out, so no weights can be learned")
        fitted, late = fit_candidates(left, X, y, **options)
        keep = [i for i, name in enumerate(crossed.names) if name not in late]
        self.names_ = tuple(crossed.names[i] for i in keep)
        self.dropped_ = {**crossed.dropped, **late}
        self.cross_fit_ = CrossFit(crossed.predictions[:, keep], crossed.folds, self.names_, self.dropped_)
        self.estimators_ = [model for _, model in fitted]
        self.named_estimators_ = Bunch(**dict(fitted))
        held = crossed.held
        return self.cross_fit_.predictions[held], y[held], weights[held], crossed.folds[held]

    def held_groups(self, groups: Any) -> ndarray:
        """Return the number of the group of every row that some fold holds out; without groups each row is its own."""
        held = self.cross_fit_.held
        return np.flatnonzero(held) if groups is None else numbered(groups, "groups")[1][held]

    def level_one(self, X: Any, which: ndarray | None = None) -> ndarray:
        """Return what the fitted candidates say of new rows: (n, candidates[, classes]).

        Args:
            X: n rows.
            which: (candidates,) bool, those to ask; the others are left at 0.
        """
        check_is_fitted(self)
        if getattr(X, "ndim", 2) == 1 and hasattr(self, "n_features_in_"):
            raise ValueError(
                f"X has shape {X.shape}; expected (n, {self.n_features_in_}). "
                "Reshape your data: X.reshape(1, -1) is one row"
            )
        validate_data(self, X, reset=False, skip_check_array=True)
        classes = getattr(self, "classes_", None)
        which = np.ones(len(self.names_), dtype=bool) if which is None else which
        asked = [pair for pair, ask in zip(zip(self.names_, self.estimators_, strict=True), which, strict=True) if ask]
        said = predict_candidates(asked, X, method="predict" if classes is None else "predict_proba", classes=classes)
        Z = np.zeros((len(said), len(which), *said.shape[2:]))
        Z[:, which] = said
        return Z

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None, groups: Any = None) -> ndarray:
        """Return :meth:`transform` of the rows themselves, which the candidates were trained on; warns of it.

        Arguments and errors as for ``fit``. A model that learns from these columns trusts the candidate that
        memorises; a pipeline calls this where a committee is not its last step.
        """
        warnings.warn(
            f"fit_transform of {type(self).__name__} says what candidates make of rows that they were trained on: do "
            "not learn from it. cross_fit_.predictions is honest; a committee as the last step learns from that",
            UserWarning,
            stacklevel=2,
        )
        return self.fit(X, y, sample_weight=sample_weight, groups=groups).transform(X)

    def transform(self, X: Any) -> ndarray:
        """Return the level-one matrix of new rows, one column a candidate.

        A classifier's columns are probabilities: of the second class if there are two, else one a class. The rows that
        the candidates were trained on have their honest, out-of-fold matrix in ``cross_fit_.predictions``.
        """
        Z = self.level_one(X)
        if Z.ndim == 3:
            Z = Z[..., 1:] if Z.shape[2] == 2 else Z
        return Z.reshape(len(Z), -1)

    def get_feature_names_out(self, input_features: Any = None) -> ndarray:
        """Return the names of the columns of :meth:`transform`: estimator_candidate, and the class's number if many."""
        check_is_fitted(self)
        many = len(getattr(self, "classes_", ())) > 2
        own = type(self).__name__.lower()
        endings = [str(c) for c in range(len(self.classes_))] if many else [""]
        return np.array([f"{own}_{name}{ending}" for name in self.names_ for ending in endings], dtype=object)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return who is passed what: ``sample_weight`` to candidates that ask for it, ``groups`` to the splitter."""
        router = MetadataRouter(owner=self).add_self_request(self)
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        for name, candidate in self.estimators:
            router.add(**{name: candidate}, method_mapping=to_fit)
        if self._has_splitter():
            # Under the name of a parameter, which no candidate can have.
            router.add(cv=check_cv(self.cv), method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        given = self.estimators if isinstance(self.estimators, (list, tuple)) else []
        candidates = [pair[1] for pair in given if isinstance(pair, (list, tuple)) and len(pair) == 2]
        inputs = [get_tags(candidate).input_tags for candidate in candidates if hasattr(candidate, "__sklearn_tags__")]
        # What some candidate can read, the committee can: the others are dropped.
        tags.input_tags.allow_nan = any(own.allow_nan for own in inputs)
        tags.input_tags.sparse = any(own.sparse for own in inputs)
        return tags

    def _routed(self, sample_weight: Any, groups: Any) -> tuple[dict[str, dict], Any]:
        """Return each candidate's arguments of fit, and the splitter's groups."""
        if not get_config()["enable_metadata_routing"]:
            return fit_arguments(check_candidates(self.estimators), sample_weight, groups), groups
        given = {"sample_weight": sample_weight, "groups": groups}
        routed = process_routing(self, "fit", **{key: value for key, value in given.items() if value is not None})
        params = {name: routed[name].fit for name, _ in check_candidates(self.estimators)}
        return params, routed.cv.split.get("groups") if self._has_splitter() else groups

    def _has_splitter(self) -> bool:
        return hasattr(self.cv, "split") and not isinstance(self.cv, str)  # of which "prefit" is one


def check_target(estimator: Committee, X: Any, y: Any) -> ndarray:
    """Return y as (n,) finite numbers; raise ValueError in scikit-learn's manner. Notes X's columns on the way."""
    validate_data(estimator, X, y, skip_check_array=True)
    return column_or_1d(check_array(y, ensure_2d=False, dtype="numeric", input_name="y"), warn=True)


def check_labels(estimator: Committee, X: Any, y: Any) -> tuple[ndarray, ndarray, ndarray]:
    """Return labels (n,), the sorted classes, and the number of every row's class; raise ValueError for one class."""
    validate_data(estimator, X, y, skip_check_array=True)
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    classes, encoded = numbered(y, "y")
    check_classification_targets(y)
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes.tolist()}; a classifier needs at least two")
    return y, classes, encoded

"""Candidates of a committee: named, cloned, fitted and asked, and dropped by name where they fail."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import RFE, RFECV, SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter, indexable

Method = Literal["predict", "predict_proba"]


def check_candidates(estimators: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the (name, candidate) pairs that are not "drop"; ValueError or TypeError if they are no such pairs."""
    pairs = isinstance(estimators, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in estimators
    )
    if not pairs or not estimators:
        raise ValueError(
            "Invalid 'estimators' attribute, 'estimators' should be a non-empty list of (string, estimator) tuples; "
            f"got {estimators!r}"
        )
    names = [name for name, _ in estimators]
    if len(set(names)) != len(names):
        raise ValueError(f"Names provided are not unique: {names!r}")
    candidates = [(name, candidate) for name, candidate in estimators if not isinstance(candidate, str)]
    for name, candidate in candidates:
        if isinstance(candidate, type) or not hasattr(candidate, "fit"):
            raise TypeError(f"candidate {name!r} should be an instance with fit and predict; got {candidate!r}")
    for name, candidate in estimators:
        if isinstance(candidate, str) and candidate != "drop":
            raise ValueError(f"candidate {name!r} should be an estimator or 'drop'; got {candidate!r}")
    if not candidates:
        raise ValueError("All estimators are dropped. At least one is required to be an estimator.")
    return candidates


def fit_candidates(
    estimators: Sequence[tuple[str, Any]],
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    groups: Any = None,
    n_jobs: int | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    verbose: int = 0,
) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Return the candidates fitted on all rows, and name -> reason of those that failed and are dropped.

    Arguments and errors as for :func:`scimeta.ensembles.cross_fit.cross_fit`.
    """
    candidates = check_candidates(estimators)
    X, y, sample_weight, groups = indexable(X, y, sample_weight, groups)
    params = fit_arguments(candidates, sample_weight, groups) if params is None else params
    fitted = Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(fit_one)(estimator, X, y, params.get(name, {})) for name, estimator in candidates
    )
    names = [name for name, _ in candidates]
    dropped = {name: model for name, model in zip(names, fitted, strict=True) if isinstance(model, str)}
    report_dropped(dropped, left=len(names) - len(dropped))
    return [(n, model) for n, model in zip(names, fitted, strict=True) if n not in dropped], dropped


def predict_candidates(
    fitted: Sequence[tuple[str, Any]], X: Any, *, method: Method = "predict", classes: ndarray | None = None
) -> ndarray:
    """Return what fitted candidates say of new rows: (n, candidates) or, with classes, (n, candidates, classes).

    Raises:
        ValueError: a candidate that returns NaN or the wrong shape, named.
    """
    (X,) = indexable(X)
    columns = []
    for name, model in fitted:
        part = predict_one(model, X, method, classes)
        if isinstance(part, str):
            raise ValueError(f"candidate {name!r} {part}; leave it out with set_params({name}='drop') and fit again")
        columns.append(part)
    return np.stack(columns, axis=1)


def fit_arguments(
    candidates: Sequence[tuple[str, Any]], sample_weight: Any = None, groups: Any = None
) -> dict[str, dict[str, Any]]:
    """Return name -> arguments of fit that carry the weights and the groups.

    Warns of the candidates that take no weights, and of those that deal rows into folds which the groups do not reach.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name, _ in candidates}
    if sample_weight is not None:
        places = {name: _weight_argument(candidate) for name, candidate in candidates}
        without = [name for name, place in places.items() if place is None]
        if without:
            warnings.warn(
                f"fit of {', '.join(map(repr, without))} takes no sample_weight: fitted without, judged with the "
                "weights",
                UserWarning,
                stacklevel=3,
            )
        for name, place in places.items():
            found[name].update({} if place is None else {place: sample_weight})
    if groups is not None:
        for name, candidate in candidates:
            taken, missed = _group_arguments(candidate)
            found[name].update({place: groups for place in taken})
            if missed:
                warnings.warn(
                    f"groups do not reach the folds of {', '.join(missed)} in candidate {name!r}: it learns from rows "
                    "of the groups that it is judged on there. Passed on are groups to committees, to searches with "
                    "cv=GroupKFold(), and through pipelines",
                    UserWarning,
                    stacklevel=3,
                )
    return {name: given for name, given in found.items() if given}


def fit_one(estimator: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
    """Return a fitted clone, or why there is none."""
    try:
        model = clone(estimator, safe=False)
        model.fit(X, y, **params)
    except Exception as error:  # whatever it raises, a candidate is dropped by name, never the whole fit
        return f"{type(error).__name__}: {error}"
    return model


def predict_one(model: Any, X: Any, method: Method, classes: ndarray | None) -> ndarray | str:
    """Return (n,) values or (n, classes) probabilities in the order of classes, or what is wrong with them."""
    raw = np.asarray(getattr(model, method)(X), dtype=float)
    rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if classes is None:
        if raw.shape not in ((rows,), (rows, 1)):
            return f"returned predictions of shape {raw.shape} for {rows} rows; expected ({rows},)"
        part = raw.reshape(rows)
    else:
        known = np.asarray(getattr(model, "classes_", classes))
        if raw.shape != (rows, len(known)) or not np.isin(known, classes).all():
            return f"returned probabilities of shape {raw.shape} for {rows} rows; expected ({rows}, {len(classes)})"
        part = np.zeros((rows, len(classes)))
        part[:, np.searchsorted(classes, known)] = raw
    if not np.isfinite(part).all():
        return f"returned {np.count_nonzero(~np.isfinite(part))} values that are NaN or infinite"
    return part


def report_dropped(dropped: Mapping[str, str], left: int) -> None:
    """Warn of the dropped candidates by name; raise if none is left."""
    if not left:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in dropped.items())
        texts = any("could not convert" in reason for reason in dropped.values())
        hint = "\nX has columns that are not numbers: put the candidates in pipelines that encode them" if texts else ""
        # A wrong type is wrong for all candidates, and scikit-learn's users expect to hear so.
        error = TypeError if all(reason.startswith("TypeError") for reason in dropped.values()) else ValueError
        raise error(f"every candidate failed:\n{reasons}{hint}")
    for name, reason in dropped.items():
        warnings.warn(f"candidate {name!r} is dropped: {reason}", UserWarning, stacklevel=4)


def _weight_argument(estimator: Any) -> str | None:
    """Return the name under which an estimator's fit takes one weight a row."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = _weight_argument(last)
        return None if inner is None else f"{name}__{inner}"
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    inner = _inner(estimator)
    return _weight_argument(inner) if _passes_on(estimator) and hasattr(inner, "fit") else None


def _group_arguments(estimator: Any) -> tuple[list[str], list[str]]:
    """Return the names under which an estimator's fit takes groups, and what in it has folds that they do not reach."""
    kind, inner = type(estimator).__name__, _inner(estimator)
    if isinstance(estimator, Pipeline):
        steps = [(name, *_group_arguments(step)) for name, step in estimator.steps if hasattr(step, "fit")]
        return [f"{name}__{one}" for name, taken, _ in steps for one in taken], [
            one for *_, some in steps for one in some
        ]
    if isinstance(estimator, (GridSearchCV, RandomizedSearchCV, RFECV)):
        taken, missed = (["groups"], []) if _reads_groups(estimator.cv) else ([], [kind])
        below, lost = _group_arguments(inner)
        # A search keeps groups for its own folds, and hands on what goes by another name; RFECV hands on nothing.
        through = [] if isinstance(estimator, RFECV) else [name for name in below if name != "groups"]
        return taken + through, missed + lost + ([type(inner).__name__] if len(through) < len(below) else [])
    if has_fit_parameter(estimator, "groups"):
        return ["groups"], []
    if isinstance(estimator, FrozenEstimator) or not hasattr(estimator, "get_params"):
        return [], []
    folds = [kind] if _deals_rows(estimator) else []
    if _passes_on(estimator) and hasattr(inner, "fit"):
        taken, missed = _group_arguments(inner)
        return taken, folds + missed
    parts = [part for part in estimator.get_params().values() if hasattr(part, "fit") and not isinstance(part, type)]
    return [], folds + [type(part).__name__ for part in parts if has_fit_parameter(part, "groups") or _deals_rows(part)]


def _inner(estimator: Any) -> Any:
    return getattr(estimator, "estimator", getattr(estimator, "regressor", None))


def _passes_on(estimator: Any) -> bool:
    """Return whether fit hands further arguments on to the estimator inside: most of scikit-learn's raise instead."""
    free = any(p.kind is Parameter.VAR_KEYWORD for p in signature(estimator.fit).parameters.values())
    if not type(estimator).__module__.startswith("sklearn."):
        return free
    known = (GridSearchCV, RandomizedSearchCV, TransformedTargetRegressor, CalibratedClassifierCV, RFE, SelectFromModel)
    return isinstance(estimator, known) and not isinstance(estimator, RFECV)


def _reads_groups(cv: Any) -> bool:
    """Return whether a splitter goes by groups: scikit-learn's say so, and one's own is given them."""
    if not hasattr(cv, "split"):
        return False
    asks = cv.get_metadata_routing().split.requests if hasattr(cv, "get_metadata_routing") else {"groups": True}
    return asks.get("groups") is True


def _deals_rows(estimator: Any) -> bool:
    """Return whether an estimator has folds of its own, such as LassoCV."""
    own = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    return "cv" in own and not isinstance(own["cv"], str)  # of which "prefit" is one

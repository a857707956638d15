"""Candidates of a committee: named, cloned, fitted and asked, and dropped by name where they fail."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from sklearn.base import clone
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
    n_jobs: int | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    verbose: int = 0,
) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Return the candidates fitted on all rows, and name -> reason of those that failed and are dropped.

    Arguments and errors as for :func:`scimeta.ensembles.cross_fit.cross_fit`.
    """
    candidates = check_candidates(estimators)
    X, y, sample_weight = indexable(X, y, sample_weight)
    params = fit_arguments(candidates, sample_weight) if params is None else params
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


def fit_arguments(candidates: Sequence[tuple[str, Any]], sample_weight: Any) -> dict[str, dict[str, Any]]:
    """Return name -> arguments of fit that carry the weights; warns of the candidates that take none."""
    if sample_weight is None:
        return {}
    places = {name: _weight_argument(candidate) for name, candidate in candidates}
    without = [name for name, place in places.items() if place is None]
    if without:
        warnings.warn(
            f"fit of {', '.join(map(repr, without))} takes no sample_weight: fitted without, judged with the weights",
            UserWarning,
            stacklevel=3,
        )
    return {name: {place: sample_weight} for name, place in places.items() if place is not None}


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
    inner = getattr(estimator, "estimator", getattr(estimator, "regressor", None))
    passes_on = any(p.kind is Parameter.VAR_KEYWORD for p in signature(estimator.fit).parameters.values())
    return _weight_argument(inner) if passes_on and hasattr(inner, "fit") else None

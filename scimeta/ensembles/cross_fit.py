"""Out-of-fold predictions of named candidates: no row is predicted by a model that was trained on it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray
from sklearn.model_selection import BaseCrossValidator, GroupKFold, StratifiedGroupKFold, check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import indexable

from scimeta.ensembles.candidates import (
    Method,
    check_candidates,
    fit_arguments,
    fit_one,
    predict_one,
    report_dropped,
)
from scimeta.ensembles.level_one import numbered
from scimeta.ensembles.weights import check_sample_weight

Splits = Sequence[tuple[ndarray, ndarray]]


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Predictions of every candidate on rows that it was not trained on.

    Attributes:
        predictions: (n, candidates) values, or (n, candidates, classes) probabilities; NaN on rows that no fold holds
            out (the first ones of time-ordered folds).
        folds: (n,) number of the fold that holds the row out, from 0; -1 if none does.
        names: the candidates that are left, in their order.
        dropped: name -> why the candidate was dropped.
    """

    predictions: ndarray
    folds: ndarray
    names: tuple[str, ...]
    dropped: Mapping[str, str]

    @property
    def held(self) -> ndarray:
        """Rows that some fold holds out, (n,) bool: those to learn weights on."""
        return self.folds >= 0


def cross_fit(
    estimators: Sequence[tuple[str, Any]],
    X: Any,
    y: Any,
    *,
    cv: int | BaseCrossValidator | Iterable | None = None,
    groups: Any = None,
    sample_weight: Any = None,
    n_jobs: int | None = None,
    method: Method = "predict",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    verbose: int = 0,
) -> CrossFit:
    """Return out-of-fold predictions of every candidate; one that fails is dropped with a warning that names it.

    Every candidate sees the same folds. A candidate is anything with ``fit`` and the method; it is cloned, never
    changed.

    Args:
        estimators: (name, candidate) pairs; a candidate given as "drop" is left out.
        X: n rows, of any kind that the candidates read (table, sparse matrix, list of texts).
        y: (n,) target; labels if method is "predict_proba".
        cv: number of folds (None for 5, or for the number of groups if that is less), splitter, or iterable of (train,
            test). A number means whole groups if groups are given, and folds with all classes in proportion if the
            method is "predict_proba".
        groups: (n,) whose row it is; for splitters that use it, and for the candidates whose ``fit`` takes it (a
            committee, a search with ``cv=GroupKFold()``), also in pipelines. Warns where a candidate deals rows into
            folds of its own that they do not reach.
        sample_weight: (n,) passed to the candidates whose ``fit`` takes it, itself or in the last step of a pipeline.
        n_jobs: of joblib; one task for every candidate and fold.
        method: "predict", or "predict_proba" with columns in the order of the sorted labels.
        params: name -> arguments of ``fit``, each with n rows; instead of ``sample_weight`` where metadata are routed.
        verbose: of joblib.

    Raises:
        ValueError: estimators that are no such pairs, folds that hold a row out twice or train on it, negative weights,
            or no candidate that works.

    Reference: van der Laan, Polley, Hubbard, Stat. Appl. Genet. Mol. Biol. 6, 25 (2007).

    >>> from sklearn.dummy import DummyRegressor
    >>> cross_fit([("mean", DummyRegressor())], np.zeros((4, 1)), np.arange(4.0), cv=2).predictions.ravel()
    array([2.5, 2.5, 0.5, 0.5])
    """
    candidates = check_candidates(estimators)
    X, y, groups, sample_weight = indexable(X, y, groups, sample_weight)
    if sample_weight is not None:
        check_sample_weight(sample_weight, len(y))
    classes = np.unique(y) if method == "predict_proba" else None
    splits, folds = split(X, y, cv=cv, groups=groups, classify=classes is not None)
    params = fit_arguments(candidates, sample_weight, groups) if params is None else params
    tasks = [(i, k) for i in range(len(candidates)) for k in range(len(splits))]
    parts = Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(_held_out)(candidates[i][1], X, y, *splits[k], params.get(candidates[i][0], {}), method, classes)
        for i, k in tasks
    )
    shape = (len(folds), len(candidates)) + (() if classes is None else (len(classes),))
    predictions, dropped = np.full(shape, np.nan), {}
    for (i, k), part in zip(tasks, parts, strict=True):
        if isinstance(part, str):
            dropped.setdefault(candidates[i][0], f"{part} (fold {k})")
        else:
            predictions[splits[k][1], i] = part
    kept = [i for i, (name, _) in enumerate(candidates) if name not in dropped]
    report_dropped(dropped, left=len(kept))
    return CrossFit(predictions[:, kept], folds, tuple(candidates[i][0] for i in kept), dropped)


def split(
    X: Any, y: Any, *, cv: int | BaseCrossValidator | Iterable | None, groups: Any = None, classify: bool = False
) -> tuple[Splits, ndarray]:
    """Return the (train, test) rows of every fold, and (n,) the fold that holds each row out, -1 for none."""
    if isinstance(cv, str):
        raise ValueError(
            f"cv should be a number, a splitter or an iterable; got {cv!r}. For candidates that are fitted already, "
            "wrap each in sklearn.frozen.FrozenEstimator and fit on rows that it never saw"
        )
    count = 0 if groups is None else len(numbered(groups, "groups")[0])
    if groups is not None and (cv is None or isinstance(cv, (int, np.integer))):
        folds = max(2, min(5, count)) if cv is None else int(cv)
        cv = StratifiedGroupKFold(folds) if classify else GroupKFold(folds)
    splitter = check_cv(5 if cv is None else cv, y, classifier=classify)
    rows = len(y)
    splits = [(_rows(a, rows), _rows(b, rows)) for a, b in splitter.split(X, y, *([] if groups is None else [groups]))]
    folds = np.full(rows, -1)
    for k, (train, test) in enumerate(splits):
        if not len(train) or not len(test):
            raise ValueError(f"fold {k} has {len(train)} rows to train on and {len(test)} held out; both need some")
        if np.intersect1d(train, test).size:
            raise ValueError(f"fold {k} trains on rows that it holds out; a committee would trust what memorises")
        if (folds[test] >= 0).any() or len(np.unique(test)) != len(test):
            raise ValueError(
                f"fold {k} holds rows out that an earlier fold held out; use a splitter that holds each row out at "
                "most once (KFold, GroupKFold, TimeSeriesSplit), not a repeated or shuffled one"
            )
        folds[test] = k
    if (folds < 0).all():
        raise ValueError("the folds hold no row out; give cv at least one fold (an iterator is used up by one fit)")
    return splits, folds


def check_nestable(cv: Any, who: str) -> None:
    """Raise TypeError for folds that are made for all rows, and so of no use where a learner is fitted on parts."""
    if isinstance(cv, str) or not (cv is None or isinstance(cv, (int, np.integer)) or hasattr(cv, "split")):
        raise TypeError(
            f"{who} must be a number or a splitter, for it is fitted on parts of X; got {reprlib.repr(cv)}. Of fitted "
            "candidates nobody knows which rows they have seen"
        )


def _rows(rows: Any, n: int) -> ndarray:
    """Return the numbers of rows, given such or a mask."""
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n,):
        return np.flatnonzero(rows)
    # A number from the end would name a row a second time, unnoticed.
    if rows.ndim != 1 or (rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n)):
        got = reprlib.repr(rows.tolist())
        raise ValueError(f"folds should be row numbers from 0 to {n - 1}, or masks of shape ({n},); got {got}")
    return rows.astype(int)


def _held_out(
    estimator: Any,
    X: Any,
    y: Any,
    train: ndarray,
    test: ndarray,
    params: Mapping[str, Any],
    method: Method,
    classes: ndarray | None,
) -> ndarray | str:
    """Return a candidate's predictions of the held-out rows, or why there are none."""
    params = {key: _safe_indexing(value, train) for key, value in params.items() if value is not None}
    model = fit_one(estimator, _safe_indexing(X, train), _safe_indexing(y, train), params)
    if isinstance(model, str):
        return model
    if not hasattr(model, method):  # of the fitted one: scikit-learn's stack has none before
        wrap = "; wrap it in sklearn.calibration.CalibratedClassifierCV" if method == "predict_proba" else ""
        return f"has no {method}{wrap}"
    try:
        return predict_one(model, _safe_indexing(X, test), method, classes)
    except Exception as error:  # whatever it raises, a candidate is dropped by name, never the whole fit
        return f"{type(error).__name__}: {error}"

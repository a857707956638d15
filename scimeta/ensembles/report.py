"""Nested cross-validation of a committee: what it, its best candidate and every candidate cost on unseen rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from sklearn.base import clone
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_array, column_or_1d, indexable

from scimeta.ensembles.blend import row_log_losses, row_losses
from scimeta.ensembles.candidates import check_candidates
from scimeta.ensembles.committee import Committee
from scimeta.ensembles.cross_fit import check_nestable, split
from scimeta.ensembles.level_one import numbered
from scimeta.ensembles.weights import check_sample_weight

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DISCRETE = "discrete"


@dataclass(frozen=True, eq=False)
class CVReport:
    """Losses of rows that neither the candidates nor the weights had seen; it prints itself as a table.

    Attributes:
        algorithms: the committee (its class's name), "discrete", and the candidates.
        losses: (n, algorithms) of every row; NaN where no outer fold holds it out or a candidate was dropped there.
        folds: (n,) the outer fold that holds the row out; -1 if none does.
        weights: (n,) sample weights.
        groups: (n,) whose row it is, as whole numbers; the rows' own numbers without groups.
        loss: "squared error" or "log-loss".
        chosen: for every outer fold, the candidate that "discrete" is.
    """

    algorithms: tuple[str, ...]
    losses: ndarray
    folds: ndarray
    weights: ndarray
    groups: ndarray
    loss: str
    chosen: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row an algorithm.

        Columns: risk, the mean over folds of the mean loss; se, its standard error, with rows of one group taken as
        dependent; min and max over folds; excess, the risk above the committee's, and excess_se, the standard error of
        that paired difference; folds, the number of folds in which it was not dropped.
        """
        import pandas as pd

        rows = {}
        for name, losses in zip(self.algorithms, self.losses.T, strict=True):
            means = self._fold_means(losses)
            difference = losses - self.losses[:, 0]
            rows[name] = (
                means.mean(),
                self._standard_error(losses),
                means.min(),
                means.max(),
                self._fold_means(difference).mean(),
                self._standard_error(difference),
                len(means),
            )
        columns = ["risk", "se", "min", "max", "excess", "excess_se", "folds"]
        return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("algorithm")

    def __str__(self) -> str:
        table = self.to_frame().to_string(float_format=lambda value: f"{value:.4g}")
        return f"cross-validated risk ({self.loss}), {len(self.chosen)} outer folds\n\n{table}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the risks with their standard errors, the committee's as a line to compare with."""
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(6.4, 0.6 + 0.4 * len(self.algorithms)), layout="constrained")[1]
        frame = self.to_frame().iloc[::-1]
        ax.axvline(frame.risk.iloc[-1], color="0.8", lw=1)
        ax.errorbar(frame.risk.to_numpy(), range(len(frame)), xerr=frame.se.to_numpy(), fmt="o", color="C0", capsize=3)
        ax.set_yticks(range(len(frame)), frame.index)
        ax.set_xlabel(f"cross-validated {self.loss}, with one standard error")
        return ax

    def _fold_means(self, losses: ndarray) -> ndarray:
        """Return the mean loss of every fold in which it is known."""
        known = np.isfinite(losses) & (self.weights > 0)
        folds = np.unique(self.folds[known & (self.folds >= 0)])
        if not len(folds):
            return np.array([np.nan])
        at = [known & (self.folds == k) for k in folds]
        return np.array([np.average(losses[rows], weights=self.weights[rows]) for rows in at])

    def _standard_error(self, losses: ndarray) -> float:
        """Return the standard error of the mean loss, from the sums of its groups."""
        known = np.isfinite(losses) & (self.weights > 0)
        w, losses = self.weights[known], losses[known]
        if not w.any():
            return np.nan
        parts = np.bincount(self.groups[known], w * (losses - w @ losses / w.sum()))
        count = len(np.unique(self.groups[known]))
        return float(np.sqrt(parts @ parts * count / max(count - 1, 1)) / w.sum())


def cv_report(
    learner: Committee,
    X: Any,
    y: Any,
    *,
    cv: int | BaseCrossValidator | Iterable | None = None,
    groups: Any = None,
    sample_weight: Any = None,
    n_jobs: int | None = None,
) -> CVReport:
    """Return the nested, cross-validated risk of a committee, of its best candidate alone, and of every candidate.

    In every outer fold the whole learner is fitted on the other rows, its own folds inside them. "discrete" is the
    candidate of the least inner risk there, so that its choice is paid for. The loss is the squared error, for
    classifiers minus the log of the true class's probability; one of exactly 0 counts as 1 / (2 n) of the n rows that
    were learned from.

    Args:
        learner: such as :class:`~scimeta.ensembles.super_learner.SuperLearnerRegressor`; cloned, never changed.
        X: n rows.
        y: (n,) target or labels.
        cv: outer folds: a number (5 if None; whole groups if groups are given), splitter, or iterable of (train, test).
        groups: (n,) whose row it is, for the outer and the inner folds and for the standard errors.
        sample_weight: (n,) non-negative, for the fits and the mean losses.
        n_jobs: of joblib, one task an outer fold.

    Raises:
        TypeError: a learner that is no committee, or one with a list of splits for cv, which fits no part of the rows.
        ValueError: folds that hold a row out twice, and all that the learner's fit raises.

    Reference: Polley, van der Laan, Super learner in prediction, U.C. Berkeley Biostatistics working paper 266 (2010).

    >>> from sklearn.linear_model import LinearRegression
    >>> from scimeta.ensembles.super_learner import SuperLearnerRegressor
    >>> x = np.arange(20.0)[:, None]
    >>> report = cv_report(SuperLearnerRegressor([("line", LinearRegression())]), x, 3 * x.ravel())
    >>> list(report.to_frame().index)
    ['SuperLearnerRegressor', 'discrete', 'line']
    """
    if not isinstance(learner, Committee):
        raise TypeError(f"cv_report takes a committee such as SuperLearnerRegressor; got {type(learner).__name__}")
    X, y, groups, sample_weight = indexable(X, y, groups, sample_weight)
    check_nestable(learner.cv, "cv_report: cv of the learner")
    classify = hasattr(learner, "predict_proba")
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None if classify else "numeric", input_name="y"))
    names = [name for name, _ in check_candidates(learner.estimators)]
    weights = check_sample_weight(sample_weight, len(y))
    splits, folds = split(X, y, cv=cv, groups=groups, classify=classify)
    parts = Parallel(n_jobs=n_jobs)(
        delayed(_fold)(learner, names, X, y, train, test, groups, sample_weight) for train, test in splits
    )
    losses = np.full((len(y), len(names) + 2), np.nan)
    for (_, test), (part, _) in zip(splits, parts, strict=True):
        losses[test] = part
    return CVReport(
        (type(learner).__name__, DISCRETE, *names),
        losses,
        folds,
        weights,
        np.arange(len(y)) if groups is None else numbered(groups, "groups")[1],
        "log-loss" if classify else "squared error",
        tuple(chosen for _, chosen in parts),
    )


def _fold(
    learner: Committee,
    names: Sequence[str],
    X: Any,
    y: ndarray,
    train: ndarray,
    test: ndarray,
    groups: Any,
    sample_weight: Any,
) -> tuple[ndarray, str]:
    """Return (held-out rows, algorithms) losses of one outer fold, and the candidate of the least inner risk."""
    given = {"groups": groups, "sample_weight": sample_weight}
    given = {key: _safe_indexing(value, train) for key, value in given.items() if value is not None}
    model = clone(learner).fit(_safe_indexing(X, train), y[train], **given)
    held, best = _safe_indexing(X, test), int(np.argmin(model.risks_))
    Z = model.level_one(held)  # (rows, candidates[, classes])
    losses = np.full((len(test), len(names) + 2), np.nan)
    of = [names.index(name) + 2 for name in model.names_]
    if hasattr(model, "predict_proba"):
        known = np.searchsorted(model.classes_, y[test])
        if not np.isin(y[test], model.classes_).all():
            raise ValueError("an outer fold holds out a class that is not among the other rows; use fewer folds")
        losses[:, 0] = row_log_losses(model.predict_proba(held), known, len(train))
        losses[:, of] = row_log_losses(Z, known, len(train))
    else:
        losses[:, 0], losses[:, of] = row_losses(model.predict(held), y[test]), row_losses(Z, y[test])
    losses[:, 1] = losses[:, of[best]]
    return losses, model.names_[best]

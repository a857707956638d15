"""Copies of rows: which rows are the same, and whether more are than chance makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy.sparse import issparse
from scipy.stats import poisson

from scimeta.ensembles.canary import fingerprints

NEAR = 1e-4  # of a column's interquartile range, between values that rounding has made of one; less for many rows
_BY_ROUNDING = 0.1  # pairs of honest rows, at most, that agree within that and not exactly
_DENSE = 20_000_000  # entries of a sparse matrix that are compared as numbers
_RARE = 1e-3  # chance of an honest table, below which it is called one with copies


def columns_of(X: Any, near: float = NEAR) -> ndarray:
    """Return (n, columns) whole numbers, equal in a column where two rows have the same value.

    Rows that are no table (texts, huge sparse matrices) are one column.

    Args:
        X: n rows of any kind.
        near: of a column's interquartile range, within which floats are the same, less for many rows; 0 for equal ones.

    >>> columns_of(np.array([[0.1 + 0.2, 1.0], [0.3, 1.0], [5.0, 2.0]])).tolist()
    [[0, 0], [0, 0], [1, 1]]
    """
    if issparse(X) and np.prod(X.shape, dtype=float) <= _DENSE:
        X = X.toarray()
    if hasattr(X, "iloc"):
        frame = X.to_frame() if X.ndim == 1 else X
        return np.stack([_codes(frame.iloc[:, j].to_numpy(), near) for j in range(frame.shape[1])], axis=1)
    if isinstance(X, np.ndarray) and X.ndim > 1:
        return np.stack([_codes(column, near) for column in X.reshape(len(X), -1).T], axis=1)
    return np.unique(fingerprints(X), return_inverse=True)[1][:, None]


def row_numbers(columns: ndarray) -> ndarray:
    """Return (n,) whole numbers from 0, the same for rows that agree in all columns."""
    return np.unique(columns, axis=0, return_inverse=True)[1].ravel()


def beyond_chance(X: Any, y: ndarray, classify: bool) -> bool:
    """Return whether more rows are copies, target and all, than independent draws would make.

    A table of few different values repeats itself, and so will new rows. Two signs tell copies from that. (1) Draws
    from any distribution whatever are a mixture of Poisson counts, so with N_k rows that occur k times, E[k! N_k] is a
    sequence of moments, and by Cauchy and Schwarz

        k / (k + 1) N_k^2 <= N_(k-1) N_(k+1)   on average:

    where many rows occur twice, some occur thrice. (2) Rows agree in all columns no more often than they agree in the
    most varied column and differ elsewhere, and two values of one X are equal no more often than any two. Both are
    asked of rows that are equal, and of those that are but for rounding.

    Args:
        X: n rows of any kind.
        y: (n,) target or labels.
        classify: whether y are labels, which agree by chance and say nothing in (2).

    Reference: Good, The population frequencies of species, Biometrika 40, 237 (1953), for counts of counts.
    """
    equal, rounded = ((columns_of(X, near), columns_of(y[:, None], near)[:, 0]) for near in (0.0, NEAR))
    return _surplus(*equal, classify, 0.0) or _surplus(*rounded, classify, _BY_ROUNDING)


def _surplus(columns: ndarray, y: ndarray, classify: bool, chance: float) -> bool:
    """Return whether either sign is there; ``chance`` pairs more are expected."""
    both = row_numbers(np.column_stack([columns, y]))
    sizes = np.bincount(both)
    counts = np.bincount(sizes, minlength=sizes.max() + 2).astype(float)  # N_k
    k = np.arange(2, len(counts) - 1)
    low, high = np.maximum(counts[k] - 3 * np.sqrt(counts[k]), 0), counts[k - 1] + 3 * np.sqrt(counts[k - 1]) + 3
    if (poisson.cdf(counts[k + 1], k / (k + 1) * low**2 / high) < _RARE).any():
        return True
    if columns.shape[1] < 2:
        return False
    same, every = _pairs(row_numbers(columns)), len(y) * (len(y) - 1) / 2
    chance += min(_pairs(column) for column in columns.T) - same + (0 if classify else same * _pairs(y) / every)
    return bool(poisson.sf(_pairs(both) - 1, chance) < _RARE)


def _pairs(numbers: ndarray) -> float:
    """Return how many pairs of rows have the same number."""
    sizes = np.bincount(numbers).astype(float)
    return float((sizes * (sizes - 1)).sum() / 2)


def _codes(values: ndarray, near: float) -> ndarray:
    """Return (n,) whole numbers from 0, the same for the same value; of floats, for values that lie so near."""
    if values.dtype.kind != "f":
        return pd.factorize(values, use_na_sentinel=False)[0]
    known = np.isfinite(values)
    codes = np.full(len(values), -1)
    ordered = np.sort(values[known], kind="stable")
    if len(ordered):
        spread = np.subtract(*np.quantile(ordered, [0.75, 0.25]))
        gap = spread * min(near, 0.03 / len(values))  # honest neighbours are about spread / n apart
        starts = ordered[np.append(True, np.diff(ordered) > gap)]
        codes[known] = np.searchsorted(starts, values[known], side="right") - 1
    codes[values == np.inf], codes[values == -np.inf] = -2, -3
    return np.unique(codes, return_inverse=True)[1]

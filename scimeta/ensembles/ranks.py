"""Features as ranks: a scale on which units, skew and outliers do not matter."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

Ranks = tuple[tuple[ndarray, ndarray], ...]
"""For every feature some of its values, ascending, and their ranks."""

_KNOTS = 11


def feature_ranks(features: ndarray, weights: ndarray) -> Ranks:
    """Return for every feature known values in ascending order and their ranks, of mean 0 and variance about 1.

    Up to eleven different values keep their own ranks; of more there are eleven evenly spaced ranks, since the ranks
    of single rows are noisy. A row of weight 2 counts as two rows, one of weight 0 as none.

    >>> feature_ranks(np.array([[5.0], [1.0]]), np.ones(2))[0]
    (array([1., 5.]), array([-0.8660254,  0.8660254]))
    """
    ranks = []
    for column in features.T:
        known = ~np.isnan(column) & (weights > 0)
        if not known.any():
            ranks.append((np.zeros(1), np.zeros(1)))
            continue
        values, place = np.unique(column[known], return_inverse=True)
        share = np.bincount(place, weights[known]) / weights[known].sum()
        middle = np.sqrt(12) * (share.cumsum() - share / 2 - 0.5)
        if len(values) > _KNOTS:
            knots = np.linspace(middle[0], middle[-1], _KNOTS)
            values, middle = np.interp(knots, middle, values), knots
        ranks.append((values, middle))
    return tuple(ranks)


def ranked(features: ndarray, ranks: Ranks) -> ndarray:
    """Return features (n, features) as ranks: between those known by interpolation, beyond them the last; 0 for NaN."""
    columns = [np.interp(column, *known) for column, known in zip(features.T, ranks, strict=True)]
    return np.nan_to_num(np.stack(columns, axis=1))

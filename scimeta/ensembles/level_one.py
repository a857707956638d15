"""The level-one matrix: what every candidate said of rows that it had not seen; checked at the door."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike
from sklearn.utils import check_array, column_or_1d


def check_matrix(Z: ndarray, names: Sequence[str] | None = None, what: str = "Z") -> tuple[ndarray, tuple[str, ...]]:
    """Return the matrix as floats and the candidates' names, "candidate 0" and so on if none are given.

    Args:
        Z: (n, candidates) values, or (n, candidates, classes) probabilities.
        names: one a candidate.
        what: the argument's name, for messages.

    Raises:
        ValueError: another shape, values that are not finite, probabilities that do not add up to 1, or names that are
            not one a candidate.

    >>> check_matrix(np.zeros((3, 2)))[1]
    ('candidate 0', 'candidate 1')
    """
    Z = np.asarray(Z, dtype=float)
    if Z.ndim not in (2, 3) or not Z.size or (Z.ndim == 3 and Z.shape[2] < 2):
        raise ValueError(
            f"{what} must be (n, candidates) values or (n, candidates, classes) probabilities; got shape {Z.shape}"
        )
    if not np.isfinite(Z).all():
        raise ValueError(f"{what} must be finite; leave out the rows that no fold holds out (CrossFit.held)")
    if Z.ndim == 3 and not (np.allclose(Z.sum(2), 1, atol=1e-4) and Z.min() > -1e-6):
        raise ValueError(f"{what} has three axes, so it holds probabilities; those of a row must add up to 1")
    names = tuple(f"candidate {j}" for j in range(Z.shape[1])) if names is None else tuple(map(str, names))
    if len(names) != Z.shape[1] or len(set(names)) < len(names):
        raise ValueError(f"names must be {Z.shape[1]} different ones, one a candidate; got {', '.join(names)}")
    return Z, names


def check_target(y: ndarray, Z: ndarray) -> ndarray:
    """Return the target (n,): finite floats, or the number of each row's class where Z holds probabilities.

    Labels of another kind are numbered in sorted order, as scikit-learn's ``classes_`` are.

    Raises:
        ValueError: another shape, values that are not finite, or more labels than Z has classes.
    """
    y = np.asarray(y)
    if y.shape != (len(Z),):
        raise ValueError(f"y must be ({len(Z)},), one a row of Z; got shape {y.shape}")
    if Z.ndim == 2:
        y = y.astype(float)
        if not np.isfinite(y).all():
            raise ValueError("y must be finite")
        return y
    if np.issubdtype(y.dtype, np.integer) and y.min() >= 0 and y.max() < Z.shape[2]:
        return y.astype(int)
    labels, numbers = numbered(y, "y")
    if len(labels) != Z.shape[2]:
        raise ValueError(f"y has {len(labels)} different labels, Z has {Z.shape[2]} classes; pass numbers of classes")
    return numbers


def check_groups(groups: ArrayLike, rows: int, what: str, least: int = 2) -> tuple[tuple[str, ...], ndarray]:
    """Return the names of the groups, sorted, and the number of each row's group (n,).

    Raises:
        ValueError: not one a row, fewer than two groups, or a group of fewer rows than ``least``.
    """
    given = np.asarray(groups)
    if given.shape != (rows,):
        raise ValueError(f"{what} must be ({rows},), one a row; got shape {given.shape}")
    names, numbers = numbered(given, what)
    sizes = np.bincount(numbers)
    if len(names) < 2:
        raise ValueError(f"{what} must be two or more different ones; got only {names.tolist()}")
    small = [f"{name} ({size})" for name, size in zip(names, sizes, strict=True) if size < least]
    if small:
        raise ValueError(f"{what} need {least} rows or more each; too few in {', '.join(small)}; merge or leave out")
    return tuple(map(str, names)), numbers


def numbered(labels: ArrayLike, what: str) -> tuple[ndarray, ndarray]:
    """Return the different labels, sorted, and the number of each row's (n,).

    Raises:
        ValueError: another shape than (n,), missing labels, or labels of several kinds, which have no order.

    >>> numbered(["b", "a", "b"], "groups")
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))
    """
    flat = column_or_1d(check_array(labels, ensure_2d=False, dtype=None, input_name=what))
    try:
        return np.unique(flat, return_inverse=True)
    except TypeError as error:
        kinds = ", ".join(sorted({type(label).__name__ for label in flat}))
        raise ValueError(
            f"{what} mixes {kinds}; make all of one kind, and leave out the rows for which it is missing"
        ) from error

"""A learned way to combine candidates: weights, an intercept, and the scale on which they are added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy import ndarray

from scimeta.ensembles.weights import (
    affine_log_weights,
    affine_weights,
    balancing_intercept,
    best_single,
    check_sample_weight,
    log_likelihood_weights,
    log_pool,
    log_probabilities,
    nnls_weights,
    simplex_weights,
    zero_means,
)

FOR_VALUES = ("auto", "discrete", "nnls", "simplex", "affine")
FOR_PROBABILITIES = ("auto", "discrete", "nnls", "simplex", "nnloglik", "cc_nloglik", "affine")

_FOLDS = 10  # at most, to judge "auto" and gates on

Weights = str | Callable[[ndarray, ndarray, ndarray], ndarray]


@dataclass(frozen=True, eq=False)
class Blend:
    """A fixed combination of candidates.

    Attributes:
        method: how the weights were learned; what "auto" chose.
        weights: (candidates,).
        intercept: a number in the unit of y; on the logit scale (classes,).
        scale: "linear", or "logit" for softmax(intercept + sum_j w_j log p_j).
        zero: (candidates,) on the logit scale, what a probability of exactly 0 counts as where another candidate says
            more (:func:`~scimeta.ensembles.weights.zero_means`); those above 0 count as they are, however small.
    """

    method: str
    weights: ndarray
    intercept: float | ndarray = 0.0
    scale: Literal["linear", "logit"] = "linear"
    zero: ndarray | None = None

    def __call__(self, Z: ndarray) -> ndarray:
        """Return (n,) from values (n, candidates), or (n, classes) from probabilities (n, candidates, classes)."""
        if self.scale == "logit":
            zero = zero_means(Z) if self.zero is None else self.zero
            return log_pool(Z, self.weights, zero, self.intercept)
        return np.einsum("ij...,j->i...", Z, self.weights) + self.intercept


def learn_blend(
    Z: ndarray,
    y: ndarray,
    weights: Weights = "auto",
    *,
    sample_weight: ndarray | None = None,
    folds: ndarray | None = None,
    groups: ndarray | None = None,
) -> Blend:
    """Return the combination of candidates that a level-one matrix asks for.

    "auto" is the safe choice, "simplex" (for probabilities "cc_nloglik", with an intercept a class by which as many
    rows of each class are expected as there were), unless "affine", learned on all folds but one and judged on that one
    in turn, has a risk that is lower by more than one standard error of the paired differences.

    Args:
        Z: (n, candidates) out-of-fold values, or (n, candidates, classes) probabilities.
        y: (n,) target; for probabilities the number of the true class.
        weights: "auto", "discrete", "nnls", "simplex" or "affine"; for probabilities also "nnloglik" and "cc_nloglik";
            or a function of (Z, y, sample_weight) that returns (candidates,) non-negative weights.
        sample_weight: (n,) non-negative; equal if None.
        folds: (n,) in which fold each row was held out, for "auto"; five of every fifth row if None.
        groups: (n,) whole numbers from 0, for the standard error: rows of one group are dependent; none are if None.

    Raises:
        ValueError: an unknown name, or weights of a function that are negative, not finite or of the wrong shape.

    >>> learn_blend(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 1.0]), "nnls").weights
    array([0.75, 0.25])
    """
    w = check_sample_weight(sample_weight, len(y))
    if callable(weights):
        return Blend(getattr(weights, "__name__", "callable"), _own_weights(weights, Z, y, w))
    known = FOR_VALUES if Z.ndim == 2 else FOR_PROBABILITIES
    if not isinstance(weights, str) or weights not in known:
        raise ValueError(f"weights should be one of {', '.join(known)}, or a function; got {weights!r}")
    if weights != "auto":
        return (_values if Z.ndim == 2 else _probabilities)(Z, y, w, weights)
    safe, learn = ("simplex", _values) if Z.ndim == 2 else ("cc_nloglik", _balanced)
    folds = np.arange(len(y)) % 5 if folds is None else few_folds(folds)
    groups = np.arange(len(y)) if groups is None else groups
    return learn(Z, y, w, "affine" if _affine_wins(Z, y, w, folds, groups, learn, safe) else safe)


def row_losses(values: ndarray, y: ndarray) -> ndarray:
    """Return the squared error of every row, (n, ...) of values (n, ...) and the target (n,)."""
    return (values - y.reshape(-1, *[1] * (values.ndim - 1))) ** 2


def row_log_losses(probabilities: ndarray, y: ndarray, rows: int | None = None) -> ndarray:
    """Return minus the log of the true class's probability, (n, ...) of (n, ..., classes).

    A 0 counts as :func:`~scimeta.ensembles.weights.zero_means` says, of ``rows`` that were learned from (n if None).
    """
    P = probabilities if probabilities.ndim == 3 else probabilities[:, None]
    said = log_probabilities(P, zero_means(P, rows))[np.arange(len(y)), :, y]
    return -said.reshape(probabilities.shape[:-1])


def few_folds(folds: ndarray) -> ndarray:
    """Return the folds, or ten joined from them: with one a row, learning on all others would take n fits.

    >>> np.unique(few_folds(np.arange(200)), return_counts=True)[1]
    array([20, 20, 20, 20, 20, 20, 20, 20, 20, 20])
    """
    return np.unique(folds, return_inverse=True)[1] % _FOLDS


def mean_gain(gains: ndarray, w: ndarray, groups: ndarray) -> tuple[float, float]:
    """Return the mean of (n,) paired differences with row weights (n,), and its standard error over (n,) groups."""
    mean = w @ gains / w.sum()
    sums = np.bincount(groups, w * (gains - mean))
    return float(mean), float(np.sqrt(sums @ sums) / w.sum())


def _values(Z: ndarray, y: ndarray, w: ndarray, method: str) -> Blend:
    if method == "affine":
        return Blend(method, *affine_weights(Z, y, w))
    learn = {"discrete": best_single, "nnls": nnls_weights, "simplex": simplex_weights}[method]
    return Blend(method, learn(Z, y, w))


def _probabilities(Z: ndarray, y: ndarray, w: ndarray, method: str) -> Blend:
    zero = zero_means(Z, int(np.count_nonzero(w)))
    if method == "affine":
        return Blend(method, *affine_log_weights(log_probabilities(Z, zero), y, w), scale="logit", zero=zero)
    if method in ("nnloglik", "cc_nloglik"):
        learned = log_likelihood_weights(log_probabilities(Z, zero), y, w, convex=method == "cc_nloglik")
        return Blend(method, learned, scale="logit", zero=zero)
    if method == "discrete":
        return Blend(method, np.eye(Z.shape[1])[np.argmin(w @ row_log_losses(Z, y))])
    # Of two classes the first adds nothing but, without the constraint, another answer.
    start = 1 if Z.shape[2] == 2 else 0
    hot = np.eye(Z.shape[2])[y][:, start:]
    flat = np.moveaxis(Z[..., start:], 1, 2).reshape(-1, Z.shape[1])
    learn = nnls_weights if method == "nnls" else simplex_weights
    return Blend(method, learn(flat, hot.ravel(), np.repeat(w, hot.shape[1])))


def _balanced(Z: ndarray, y: ndarray, w: ndarray, method: str) -> Blend:
    """Return the combination, with intercepts that "cc_nloglik" has not of itself."""
    blend = _probabilities(Z, y, w, method)
    if method == "affine":
        return blend
    scores = np.einsum("ijc,j->ic", log_probabilities(Z, blend.zero), blend.weights)
    return replace(blend, intercept=balancing_intercept(scores, y, w))


def _affine_wins(
    Z: ndarray, y: ndarray, w: ndarray, folds: ndarray, groups: ndarray, learn: Callable[..., Blend], safe: str
) -> bool:
    """Return whether affine beats the safe method, out of fold, by more than one paired standard error."""
    numbers = [k for k in np.unique(folds) if w[folds == k].any() and w[folds != k].any()]
    if len(numbers) < 2:
        return False
    losses = row_losses if Z.ndim == 2 else partial(row_log_losses, rows=len(y))
    gain = np.zeros(len(y))
    for k in numbers:
        train, test = folds != k, folds == k
        blends = [learn(Z[train], y[train], w[train], method) for method in (safe, "affine")]
        gain[test] = np.subtract(*(losses(blend(Z[test]), y[test]) for blend in blends))
    mean, error = mean_gain(gain, w, groups)
    rounding = 1e-12 * (np.cov(y, aweights=w) if Z.ndim == 2 else 1.0)
    return bool(mean > max(error, rounding))


def _own_weights(learn: Callable, Z: ndarray, y: ndarray, w: ndarray) -> ndarray:
    weights = np.asarray(learn(Z, y, w), dtype=float)
    if weights.shape != (Z.shape[1],) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            f"weights returned {weights.tolist()}; expected ({Z.shape[1]},) finite non-negative numbers, not all zero"
        )
    return weights / weights.sum()

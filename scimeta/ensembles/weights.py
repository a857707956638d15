"""Weights of a committee from its level-one matrix: what every candidate said of rows that it had not seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray
from scipy.optimize import nnls
from scipy.special import log_softmax

SPREAD = 0.2  # of affine weights around the simplex's before the rows are seen
_LEAST = 1e-4  # smaller weights on the simplex are set to zero
_NEWTON_STEPS = 200


def best_single(Z: ndarray, y: ndarray, sample_weight: ndarray | None = None) -> ndarray:
    """Return weight 1 for the candidate of least mean squared error (the discrete Super Learner), 0 for the others.

    Args:
        Z: (n, candidates) level-one matrix.
        y: (n,) target.
        sample_weight: (n,) non-negative; equal if None.
    Returns: (candidates,).
    Raises:
        ValueError: shapes that do not agree, values that are not finite, or negative weights; as all functions here.
    """
    Z, y, w = check_level_one(Z, y, sample_weight)
    return np.eye(Z.shape[1])[np.argmin(w @ (Z - y[:, None]) ** 2)]


def nnls_weights(Z: ndarray, y: ndarray, sample_weight: ndarray | None = None) -> ndarray:
    """Return the non-negative weights of least squares, divided by their sum.

    Arguments, returns and errors as for :func:`best_single`. ``method.NNLS`` of R's SuperLearner.

    Reference: Breiman, Stacked regressions, Machine Learning 24, 49 (1996).

    >>> nnls_weights(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 1.0]))
    array([0.75, 0.25])
    """
    Z, y, w = check_level_one(Z, y, sample_weight)
    root = np.sqrt(w)
    u = nnls(Z * root[:, None], y * root)[0]
    return u / u.sum() if u.any() else best_single(Z, y, w)


def simplex_weights(Z: ndarray, y: ndarray, sample_weight: ndarray | None = None) -> ndarray:
    """Return the weights of least squares among those that are non-negative and sum to one.

    Arguments, returns and errors as for :func:`best_single`. ``method.CC_LS`` of R's SuperLearner, whose habit of
    setting weights below 1e-4 to zero is kept.

    Reference: van der Laan, Polley, Hubbard, Stat. Appl. Genet. Mol. Biol. 6, 25 (2007).

    >>> simplex_weights(np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([0.5, 1.5])).round(3)
    array([0.5, 0.5])
    """
    Z, y, w = check_level_one(Z, y, sample_weight)
    return _trimmed(_least_on_simplex((Z - y[:, None]) * np.sqrt(w)[:, None]))


def affine_weights(
    Z: ndarray, y: ndarray, sample_weight: ndarray | None = None, *, spread: float = SPREAD
) -> tuple[ndarray, float]:
    """Return weights of any sign and sum, and an intercept, held near the simplex where the rows say little.

    The mean of the posterior for normal errors, with weights around :func:`simplex_weights` by ``spread`` before and a
    free intercept: sum_i w_i (y_i - c - Z_i w)^2 / v + |w - s|^2 / spread^2 is least, s the simplex weights and v the
    variance that ordinary least squares leaves (s, if the rows are too few). With many rows it is least squares.

    Args:
        Z, y: as for :func:`best_single`, errors too.
        sample_weight: (n,) a row of weight 2 counts as two rows.
        spread: standard deviation of each weight before; infinite for ordinary least squares.
    Returns: (candidates,) and a number in the unit of y.

    >>> weights, intercept = affine_weights(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]), spread=np.inf)
    >>> weights.round(6), round(intercept, 6)
    (array([2.]), 1.0)
    """
    Z, y, w = check_level_one(Z, y, sample_weight)
    if not spread > 0:
        raise ValueError(f"spread must be positive; got {spread}")
    near = simplex_weights(Z, y, w)
    centre, middle, root = w @ Z / w.sum(), w @ y / w.sum(), np.sqrt(w)
    A = (Z - centre) * root[:, None]
    t = (y - middle) * root - A @ near
    left = t - A @ np.linalg.lstsq(A, t, rcond=1e-7)[0]
    free = w.sum() - len(near) - 1
    noise = np.sqrt(min(t @ t / w.sum(), left @ left / free if free > 0 else np.inf))
    A, t = np.vstack([A, noise / spread * np.eye(len(near))]), np.append(t, np.zeros(len(near)))
    weights = near + np.linalg.lstsq(A, t, rcond=1e-7)[0]
    return weights, float(middle - centre @ weights)


def log_likelihood_weights(
    L: ndarray, y: ndarray, sample_weight: ndarray | None = None, *, convex: bool = True
) -> ndarray:
    """Return the weights of greatest likelihood where candidates are combined on the logit scale.

    The committee says softmax(sum_j w_j L[:, j]); with two classes that is the logistic of sum_j w_j logit p_j.

    Args:
        L: (n, candidates, classes) logarithms of probabilities, finite, as from :func:`log_probabilities`.
        y: (n,) number of the true class.
        sample_weight: (n,) non-negative; equal if None.
        convex: True for weights on the simplex (``method.CC_nloglik`` of R's SuperLearner), False for non-negative
            ones divided by their sum (``method.NNloglik``), the best candidate alone if that sum is 0.
    Returns: (candidates,).
    Raises: ValueError as :func:`best_single`.

    >>> sure, unsure = np.array([[0.9, 0.1], [0.2, 0.8]]), np.full((2, 2), 0.5)
    >>> log_likelihood_weights(np.log(np.stack([sure, unsure], axis=1)), np.array([0, 1]))
    array([1., 0.])
    """
    L, y, w = _check_log_probabilities(L, y, sample_weight)
    solve = _on_simplex if convex else _non_negative
    weights = _newton(L, np.eye(L.shape[2])[y], w, np.full(L.shape[1], 1 / L.shape[1]), solve)
    if not weights.any():
        return np.eye(len(weights))[np.argmax(w @ L[np.arange(len(y)), :, y])]
    return _trimmed(weights) if convex else weights / weights.sum()


def affine_log_weights(
    L: ndarray, y: ndarray, sample_weight: ndarray | None = None, *, spread: float = SPREAD
) -> tuple[ndarray, ndarray]:
    """Return weights of any sign and one intercept a class, on the logit scale, held near the simplex.

    The mode of the posterior, with weights around the convex :func:`log_likelihood_weights` by ``spread`` and
    intercepts around 0 by 1. Arguments and errors as for :func:`log_likelihood_weights` and :func:`affine_weights`.
    Returns: (candidates,) and (classes,).
    """
    L, y, w = _check_log_probabilities(L, y, sample_weight)
    if not 0 < spread < np.inf:
        raise ValueError(f"spread must be positive and finite, or separable classes have no answer; got {spread}")
    n, candidates, classes = L.shape
    near = np.append(log_likelihood_weights(L, y, w), np.zeros(classes))
    penalty = np.append(np.full(candidates, spread**-2.0), np.ones(classes))
    L = np.concatenate([L, np.broadcast_to(np.eye(classes), (n, classes, classes))], axis=1)
    both = _newton(L, np.eye(classes)[y], w, near, _free, penalty)
    return both[:candidates], both[candidates:]


def zero_means(P: ndarray, rows: int | None = None) -> ndarray:
    """Return what a probability of exactly 0 stands for, (candidates,): 1 / (2 n), or less.

    None of n rows is evidence for a chance of about 1 / (2 n), not for an infinite logit, which would silence all other
    candidates; less, where the candidate says anything smaller that is not 0. Probabilities above 0 are never touched.

    Args:
        P: (n, candidates, classes) probabilities.
        rows: that were learned from; those of P if None.

    Reference: Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27, 199 (1981), who count half a row for the unseen.

    >>> zero_means(np.array([[[0.0, 1.0], [0.001, 0.999]], [[1.0, 0.0], [0.5, 0.5]]]))
    array([0.25 , 0.001])
    """
    return np.where(P > 0, P, 1.0).min(axis=(0, 2), initial=1 / (2 * max(rows or len(P), 1)))


def log_probabilities(P: ndarray, zero: ndarray | None = None) -> ndarray:
    """Return finite logarithms of (n, candidates, classes); a 0 counts as ``zero``, (candidates,), or zero_means(P)."""
    zero = zero_means(P) if zero is None else zero
    return np.log(np.where(P > 0, P, zero[:, None]))


def log_pool(P: ndarray, weights: ndarray, zero: ndarray, intercept: float | ndarray = 0.0) -> ndarray:
    """Return softmax(intercept + sum_j w_j log p_j), (n, classes): what candidates say together on the logit scale.

    Args:
        P: (n, candidates, classes); of a candidate of weight 0 any numbers.
        weights: (candidates,), or (n, candidates) for weights of each row's own.
        zero: (candidates,) what a candidate's 0 counts as where another one says more. Where all that have a weight
            say 0, so do they together: a lone candidate's probabilities are its own.
        intercept: (classes,) or one number.

    >>> log_pool(np.array([[[0.0, 1.0], [0.0, 1.0]]]), np.array([0.5, 0.5]), np.array([0.1, 0.1]))
    array([[0., 1.]])
    """
    weights = np.broadcast_to(weights, P.shape[:2])
    scores = np.einsum("ijc,ij->ic", log_probabilities(P, zero), weights) + intercept
    voices = weights != 0
    never = voices.any(axis=1)[:, None] & ~((P > 0) & voices[..., None]).any(axis=1)
    return softmax(np.where(never, -np.inf, scores))


def balancing_intercept(scores: ndarray, y: ndarray, w: ndarray) -> ndarray:
    """Return (classes,) that are added to logits (n, classes) so that as many of each class are expected as were seen.

    The mode of the posterior of softmax(c + scores) with c around 0 by 1; the likelihood's score equation in c is
    sum_i w_i p_ic = sum_i w_i [y_i = c]. Candidates that are right on average are not when their logits are averaged.

    Args:
        scores: (n, classes).
        y: (n,) number of the true class.
        w: (n,) non-negative.

    >>> balancing_intercept(np.zeros((4000, 2)), np.arange(4000) % 4 // 3, np.ones(4000)).round(2)
    array([ 0.55, -0.55])
    """
    hot, c = np.eye(scores.shape[1])[y], np.zeros(scores.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = softmax(scores + c)
        hessian = np.diag(w @ p + 1.0) - (p * w[:, None]).T @ p
        step = np.clip(np.linalg.solve(hessian, w @ (p - hot) + c), -1.0, 1.0)
        c = c - step
        if np.abs(step).max() < 1e-10:
            break
    return c


def softmax(scores: ndarray) -> ndarray:
    """Return exp(scores) over their sum along the last axis."""
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def check_level_one(Z: ndarray, y: ndarray, sample_weight: ndarray | None) -> tuple[ndarray, ndarray, ndarray]:
    """Return Z (n, candidates), y (n,) and weights (n,) as floats, or raise ValueError."""
    Z, y = np.asarray(Z, dtype=float), np.asarray(y, dtype=float)
    if Z.ndim != 2 or not Z.size or y.shape != (len(Z),):
        raise ValueError(f"Z must be (n, candidates) and y (n,), neither empty; got {Z.shape} and {y.shape}")
    if not np.isfinite(Z).all() or not np.isfinite(y).all():
        raise ValueError("Z and y must be finite; leave out the rows that no fold holds out (CrossFit.held)")
    return Z, y, check_sample_weight(sample_weight, len(Z))


def check_sample_weight(sample_weight: ndarray | None, n: int) -> ndarray:
    """Return (n,) weights as floats, ones for None; ValueError if negative, not finite or all zero."""
    w = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    if w.shape != (n,):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected ({n},)!")
    if not np.isfinite(w).all() or (w < 0).any():
        raise ValueError("Negative values in data passed to `sample_weight`, or values that are not finite")
    if not w.any():
        raise ValueError("sample_weight is zero in all rows; give at least one row a positive weight")
    return w


def _check_log_probabilities(L: ndarray, y: ndarray, sample_weight: ndarray | None) -> tuple[ndarray, ndarray, ndarray]:
    L, y = np.asarray(L, dtype=float), np.asarray(y)
    if L.ndim != 3 or not L.size or y.shape != (len(L),) or not np.isfinite(L).all():
        raise ValueError(f"L must be finite, (n, candidates, classes), and y (n,); got {L.shape} and {y.shape}")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= L.shape[2]:
        raise ValueError(f"y must be whole numbers from 0 to {L.shape[2] - 1}, the number of the true class")
    return L, y, check_sample_weight(sample_weight, len(L))


def _newton(
    L: ndarray,
    hot: ndarray,
    w: ndarray,
    start: ndarray,
    solve: Callable[[ndarray, ndarray], ndarray],
    penalty: float | ndarray = 0.0,
) -> ndarray:
    """Return the weights of least loss, penalty / 2 (u - start)^2 added; each step solves the quadratic model."""
    penalty = np.full(len(start), penalty)

    def loss(u: ndarray) -> float:
        return 0.5 * penalty @ (u - start) ** 2 - w @ (hot * log_softmax(np.einsum("ijc,j->ic", L, u), axis=1)).sum(1)

    u, now = start, loss(start)
    for _ in range(_NEWTON_STEPS):
        p = softmax(np.einsum("ijc,j->ic", L, u))  # (n, classes)
        spread = L - np.einsum("ijc,ic->ij", L, p)[..., None]
        gradient = np.einsum("i,ijc,ic->j", w, L, p - hot) + penalty * (u - start)
        hessian = np.einsum("i,ijc,ic,ikc->jk", w, spread, p, spread, optimize=True) + np.diag(penalty)
        hessian += (1e-10 * np.trace(hessian) / len(u) + 1e-12) * np.eye(len(u))
        R = np.linalg.cholesky(hessian).T
        step = solve(R, R @ u - np.linalg.solve(R.T, gradient)) - u
        size = 1.0
        while loss(u + size * step) > now and size > 1e-8:
            size /= 2
        before, now, u = now, min(now, loss(u + size * step)), u + size * step if size > 1e-8 else u
        if before - now <= 1e-15 * abs(before) or size <= 1e-8:
            break
    return u


def _on_simplex(R: ndarray, t: ndarray) -> ndarray:
    return _least_on_simplex(R - t[:, None])


def _non_negative(R: ndarray, t: ndarray) -> ndarray:
    return nnls(R, t)[0]


def _free(R: ndarray, t: ndarray) -> ndarray:
    return np.linalg.solve(R, t)


def _least_on_simplex(E: ndarray) -> ndarray:
    """Return the w on the simplex of least |E w|^2.

    For u = s w, |E u|^2 + (sum(u) - 1)^2 is least over s at q / (1 + q) with q = |E w|^2, which grows with q: one
    non-negative least-squares problem gives the direction of w exactly.
    """
    scale = np.sqrt((E * E).sum(axis=0).min())
    E = E / (scale if scale > 0 else 1.0)
    # Beyond the columns only their inner products count.
    E = np.linalg.qr(E, mode="r") if len(E) > E.shape[1] else E
    u = nnls(np.vstack([E, np.ones(E.shape[1])]), np.append(np.zeros(len(E)), 1.0))[0]
    return u / u.sum()


def _trimmed(weights: ndarray) -> ndarray:
    weights = np.where(weights < _LEAST, 0.0, weights)
    return weights / weights.sum()

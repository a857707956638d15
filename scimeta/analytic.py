"""Closed forms of the toys on which meta-learners can be worked out by hand: bowls, treasures, noisy steps.

A task is a bowl, L(t) = (t - c)' A (t - c) / 2. A gradient step takes t - c to S (t - c) with S = 1 - lr A, so that
k steps leave P (t - c) with P = S^k. Whatever a method does to a bowl is then a function of A alone: the method sees
bowls with the same centres and axes, but other curvatures H. Here a method is a function from :class:`Bowls` to the
:class:`Bowls` that it sees, and :func:`optimum` and :func:`meta_loss` answer for any of them.

>>> bowls = Bowls(torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[0.0], [1.0]]))
>>> optimum(bowls), optimum(maml(bowls, lr=0.2, steps=3))  # the steep bowl looks after itself
(tensor([0.8000]), tensor([0.0010]))

``maml``, ``multi_step_maml``, ``imaml`` and ``few_shot_maml`` minimise a meta-loss. ``fomaml`` and ``reptile`` do not:
their "optimum" is the zero of their expected update, the mean of H (t - c). It attracts the outer loop only where the
mean of H is positive definite: certain for lr times every eigenvalue of A below 1, not beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Bowls(NamedTuple):
    """Quadratic tasks, L(t) = (t - centre)' curvature (t - centre) / 2; also the ``data`` of :func:`loss`.

    Attributes:
        curvature: (tasks, dim, dim), symmetric.
        centre: (tasks, dim).
    """

    curvature: Tensor
    centre: Tensor


def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of one bowl, in the form that the core asks for.

    Args:
        params: {"theta": (dim,)}.
        data: curvature (dim, dim) and centre (dim,) of one task; a leading axis on both gives (tasks,) losses.

    >>> loss({"theta": torch.tensor([1.0, 1.0])}, (torch.eye(2), torch.zeros(2)))
    tensor(1.)
    """
    curvature, centre = data
    offset = params["theta"] - centre
    return 0.5 * (offset * (curvature @ offset[..., None])[..., 0]).sum(-1)


def meta_loss(bowls: Bowls, theta: Tensor) -> Tensor:
    """Return the mean over tasks of (theta - c)' H (theta - c) / 2: the meta-loss of the method that sees these bowls.

    For MAML and its kin, the mean loss after adaptation from theta, (dim,); for the tasks themselves, the loss of joint
    training; for FOMAML and Reptile, a function whose gradient is their expected update.
    """
    _check(bowls, theta)
    return loss({"theta": theta}, bowls).mean()


def optimum(bowls: Bowls) -> Tensor:
    """Return (sum H)^-1 sum H c, (dim,): the start at which the mean of H (theta - c) vanishes.

    ``optimum(bowls)`` is that of joint training, ``optimum(maml(bowls, lr=0.1))`` that of MAML, and so on.

    >>> optimum(Bowls(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[0.0], [1.0]])))
    tensor([0.7500])
    """
    _check(bowls)
    total = bowls.curvature.sum(0)
    if torch.linalg.matrix_rank(total, hermitian=True) < len(total):
        raise ValueError("optimum: the curvatures sum to a singular matrix; add tasks, or move lr off 1 / eigenvalue")
    return torch.linalg.solve(total, (bowls.curvature @ bowls.centre[..., None]).sum(0))[:, 0]


def maml(bowls: Bowls, *, lr: float, steps: int = 1) -> Bowls:
    """Return the bowls as MAML sees them, H = A P^2.

    The loss after adaptation is (P (t - c))' A P (t - c) / 2, and P commutes with A. No steps: joint training.

    Reference: Finn, Abbeel, Levine, Model-agnostic meta-learning, ICML 2017.
    """
    _check_steps(lr, steps)
    return _seen(bowls, lambda a: a * (1 - lr * a) ** (2 * steps))


def fomaml(bowls: Bowls, *, lr: float, steps: int = 1) -> Bowls:
    """Return the bowls as first-order MAML sees them, H = A P.

    Its update is the gradient at the adapted point, A P (t - c), with no derivative of that point; the optimum is the
    zero of its mean. 2 k steps of it see what k steps of MAML see.
    """
    _check_steps(lr, steps)
    return _seen(bowls, lambda a: a * (1 - lr * a) ** steps)


def reptile(bowls: Bowls, *, lr: float, steps: int = 1) -> Bowls:
    """Return the bowls as Reptile sees them, H = 1 - P.

    Its update is the displacement t - t_k = (t - c) - P (t - c); the optimum is the zero of its mean. One step gives
    lr A, so joint training's optimum; many steps forget A and give the mean of the centres.

    Reference: Nichol, Achiam, Schulman, On first-order meta-learning algorithms, arXiv:1803.02999 (2018).
    """
    _check_steps(lr, steps)
    return _seen(bowls, lambda a: 1 - (1 - lr * a) ** steps)


def imaml(bowls: Bowls, *, strength: float) -> Bowls:
    """Return the bowls as implicit MAML sees them, H = A Q^2 with Q = strength (A + strength)^-1.

    The adapted point p minimises L(p) + strength |p - t|^2 / 2, so A (p - c) + strength (p - t) = 0, whence
    p - c = Q (t - c): Q stands where MAML has P. An endless strength is joint training.

    Reference: Rajeswaran, Finn, Kakade, Levine, Meta-learning with implicit gradients, NeurIPS 2019.
    """
    if not 0 < strength < math.inf:
        raise ValueError(f"imaml: strength must be positive and finite; got {strength}")
    return _seen(bowls, lambda a: a * (strength / (a + strength)) ** 2)


def multi_step_maml(bowls: Bowls, *, lr: float, weights: Sequence[float]) -> Bowls:
    """Return the bowls as MAML++ with its multi-step loss sees them, H = A sum_j v_j S^(2 j).

    The loss after step j is that of MAML with j steps; ``weights`` are v_1, v_2, ..., from the first inner step on.

    Reference: Antoniou, Edwards, Storkey, How to train your MAML, ICLR 2019.
    """
    _check_steps(lr)
    if not len(weights):
        raise ValueError("multi_step_maml: weights is empty; give one for each inner step")
    return _seen(bowls, lambda a: a * sum(v * (1 - lr * a) ** (2 * j) for j, v in enumerate(weights, 1)))


def few_shot_maml(bowls: Bowls, *, lr: float, shots: int) -> Bowls:
    """Return what MAML with one step sees when the bowls are linear regressions with few shots.

    H = A - 2 lr A^2 + lr^2 [(1 + 1/K) A^3 + tr(A^2) A / K] for K shots. Inputs are normal, x ~ N(0, A), targets x'c;
    the support loss, half the mean square over K of them, has the curvature M = mean of x x', and the query loss is the
    bowl. After the step its curvature is E (1 - lr M) A (1 - lr M), with E M = A. In E M A M, K (K - 1) of the K^2
    pairs of inputs are independent and give A^3; the other K give E x x' A x x' = 2 A^3 + tr(A^2) A (Isserlis).
    The optimum moves: few shots make steep tasks count for more. Noise of variance s^2 in the targets adds a gradient
    of covariance s^2 A / K, for which see :func:`noise_floor`. FOMAML and Reptile with one step have M only once, and
    E M = A leaves them where they are.

    Reference: Isserlis, Biometrika 12, 134 (1918), for the fourth moments.
    """
    _check_steps(lr, 1, shots)

    def curvature(a: Tensor) -> Tensor:
        trace = (a**2).sum(-1, keepdim=True)
        return a - 2 * lr * a**2 + lr**2 * ((1 + 1 / shots) * a**3 + trace * a / shots)

    return _seen(bowls, curvature)


def treasures(curvature: Tensor, angle: Tensor, centre: Tensor | None = None) -> Bowls:
    """Return bowls in the plane with one curvature, each rotated by its own angle: A_i = R_i D R_i'.

    When is the centroid m of the centres the optimum? When sum H_i (c_i - m) = 0, and a method turns D into another
    D' under the same rotations. With eigenvalues p, q of D', points as complex numbers and * the conjugate,
    H_i z = (p + q)/2 z + (p - q)/2 e^(2i angle_i) z* up to a common phase. So, exactly when D' is round, or

        v = mean of e^(2i angle_j) (c_j - m)* = 0,

    that is, when the doubled angles are uncorrelated with the centres: then for all methods at once. Equal angles do
    it, and angles drawn independently of the centres, on average over draws. That the rotations cancel,
    u = mean of e^(2i angle_j) = 0, does not suffice: the optimum is m + r (v - r u v*) / (1 - r^2 |u|^2) with
    r = (p - q)/(p + q), and u = 0 leaves m + r v. For n > 1 centres evenly around a circle, at angles f_j, and bowls at
    w f_j + constant, w whole, v vanishes unless n divides 2 w - 1: bowls that turn with their centre (w = 1) have their
    optimum at the centroid, three bowls that turn twice as fast, or against it (w = 2, -1), have not.

    Args:
        curvature: (2, 2) the curvature D of the unrotated bowl, symmetric.
        angle: (tasks,) rotation of each bowl, rad.
        centre: (tasks, 2); if None, on the unit circle at the bowl's own angle.

    >>> quarter = torch.arange(4) * torch.pi / 2
    >>> bool(optimum(maml(treasures(torch.diag(torch.tensor([1.0, 3.0])), quarter), lr=0.1)).abs().max() < 1e-6)
    True
    """
    if curvature.shape != (2, 2) or angle.ndim != 1:
        shapes = f"{tuple(curvature.shape)} and {tuple(angle.shape)}"
        raise ValueError(f"treasures: expected curvature (2, 2) and angle (tasks,); got {shapes}")
    cos, sin = angle.to(curvature).cos(), angle.to(curvature).sin()
    rotation = torch.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
    bowls = Bowls(rotation @ curvature @ rotation.mT, rotation[..., 0] if centre is None else centre)
    _check(bowls)
    return bowls


def noise_floor(bowls: Bowls, noise: Tensor, *, lr: float, steps: int = 1) -> Tensor:
    """Return what zero-mean noise in the inner gradients adds to MAML's meta-loss, at every start alike.

    lr^2 sum_{j<k} tr(A S^j N S^j) / 2, mean over tasks. Each step adds -lr e with a fresh e of covariance N, so
    t_k - c = P (t - c) - lr sum_j S^j e_j; the cross terms have mean zero, and the last term does not know t. Hence the
    floor rises (towards lr tr(N (2 - lr A)^-1) / 2 after many steps) and the optimum stays. FOMAML's and Reptile's
    updates are linear in t_k: their zeros stay, too.

    Args:
        bowls: the tasks themselves, not as a method sees them.
        noise: N, (dim, dim) or (tasks, dim, dim): covariance of the noise in one step's gradient.

    >>> noise_floor(Bowls(torch.ones(1, 1, 1), torch.zeros(1, 1)), torch.ones(1, 1), lr=0.5)
    tensor(0.1250)
    """
    _check_steps(lr, steps)
    a, vectors = _eigen(bowls)
    powers = (1 - lr * a)[..., None] ** (2 * torch.arange(steps, device=a.device))  # (tasks, dim, steps)
    return 0.5 * lr**2 * (a * powers.sum(-1) * _along(noise, vectors)).sum(-1).mean()


class QuickStart(NamedTuple):
    """Expected loss of an adapted task above its minimum: bias + variance.

    Attributes: both (tasks,), what the steps leave of the start's distance, and what the support's noise brings in.
    """

    bias: Tensor
    variance: Tensor


def quick_start(bowls: Bowls, theta: Tensor, noise: Tensor, *, lr: float, steps: int = 1, shots: int = 1) -> QuickStart:
    """Return bias and variance of the loss after ``steps`` gradient steps on one support set.

    All steps see the same K examples (``shots``), so the same error e of the gradient, of covariance N / K: with
    d = theta - c, t_k - c = P d - G e, where G = lr sum_{j<k} S^j = (1 - P) A^-1. The bias is d'P A P d / 2, the
    variance tr(A G N G) / (2 K). In one dimension and one step that is a/2 times the mean squared distance,
    (1 - lr a)^2 d^2 + lr^2 s^2 / K. For noise that is fresh at every step, see :func:`noise_floor`.

    Args:
        bowls: the tasks themselves.
        theta: (dim,) the start.
        noise: N, (dim, dim) or (tasks, dim, dim): covariance of one example's gradient.

    >>> quick_start(Bowls(torch.full((1, 1, 1), 2.0), torch.ones(1, 1)), torch.zeros(1), torch.eye(1), lr=0.1, shots=4)
    QuickStart(bias=tensor([0.6400]), variance=tensor([0.0025]))
    """
    _check_steps(lr, steps, shots)
    return _bias_variance(*_along_axes(bowls, theta, noise, shots), lr, steps)


def best_lr(bowls: Bowls, theta: Tensor, noise: Tensor, *, shots: int = 1) -> float:
    """Return the rate of ONE step that makes the mean loss least, sum d'A^2 d / sum (d'A^3 d + tr(A N) / K).

    The loss is sum [d'A d - 2 lr d'A^2 d + lr^2 (d'A^3 d + tr(A N) / K)] / 2, a parabola in lr. In
    one dimension, lr a = d^2 / (d^2 + w) with w = s^2 / (K a^2), the variance of the support set's own minimum: the
    weight that Bayes gives to an observation of variance w under a prior of variance d^2. It leaves a squared distance
    of d^2 w / (d^2 + w). Arguments as for :func:`quick_start`.

    >>> best_lr(Bowls(torch.full((1, 1, 1), 2.0), torch.ones(1, 1)), torch.zeros(1), torch.full((1, 1), 4.0))
    0.25
    """
    _check_steps(0.0, 1, shots)
    a, squares, variances = _along_axes(bowls, theta, noise, shots)
    below = (a**3 * squares + a * variances).sum()
    if not below > 0:
        raise ValueError("best_lr: theta is at every centre and there is no noise, so every rate is as good")
    return float((a**2 * squares).sum() / below)


def best_steps(bowls: Bowls, theta: Tensor, noise: Tensor, *, lr: float, shots: int = 1, max_steps: int = 1000) -> int:
    """Return the number of steps on one support set, 0 to ``max_steps``, with the least mean loss; all are tried.

    In one dimension the squared distance is u^2 d^2 + (1 - u)^2 w with u = (1 - lr a)^k and d, w as in
    :func:`best_lr`, least at u = w / (d^2 + w): for lr a < 1 at one of the integers beside
    k = -ln(1 + d^2 / w) / ln(1 - lr a). Stopping early is the same shrinkage as a smaller rate. With fresh noise at
    every step the loss is linear in u^2, and the best number is none or endless. Arguments as for :func:`quick_start`.

    >>> best_steps(Bowls(torch.ones(1, 1, 1), torch.ones(1, 1)), torch.zeros(1), torch.ones(1, 1), lr=0.1)
    7
    """
    _check_steps(lr, max_steps, shots)
    a, squares, variances = _along_axes(bowls, theta, noise, shots)
    if not lr * a.max() < 2:
        raise ValueError(f"best_steps: lr times the largest eigenvalue is {lr * a.max():.3g}; from 2 on, steps diverge")
    counts = torch.arange(max_steps + 1, device=a.device)[:, None, None]
    error = _bias_variance(a, squares, variances, lr, counts)
    return int((error.bias + error.variance).mean(-1).argmin())


def _seen(bowls: Bowls, curvature: Callable[[Tensor], Tensor]) -> Bowls:
    """Return bowls with the same axes and a function of the eigenvalues (tasks, dim)."""
    a, vectors = _eigen(bowls)
    return Bowls((vectors * curvature(a)[..., None, :]) @ vectors.mT, bowls.centre)


def _eigen(bowls: Bowls) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (tasks, dim), none negative, and eigenvectors (tasks, dim, dim) in columns."""
    _check(bowls)
    a, vectors = torch.linalg.eigh(bowls.curvature)
    low, task = a[:, 0].min(0)
    if low < -_rounding(a):
        raise ValueError(f"Bowls: curvature of task {int(task)} has the eigenvalue {low:.3g}; a bowl has none below 0")
    return a.clamp(min=0), vectors


def _along(noise: Tensor, vectors: Tensor) -> Tensor:
    """Return the noise's variance along each eigenvector, (tasks, dim)."""
    tasks, dim, _ = vectors.shape
    if noise.shape not in ((dim, dim), (tasks, dim, dim)) or not noise.isfinite().all():
        shapes = f"({dim}, {dim}) or ({tasks}, {dim}, {dim})"
        raise ValueError(f"noise: expected a finite covariance, {shapes}; got {tuple(noise.shape)}")
    return (vectors * (noise.to(vectors) @ vectors)).sum(-2).clamp(min=0)


def _along_axes(bowls: Bowls, theta: Tensor, noise: Tensor, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues, and along their axes the start's squared offset and the noise's variance, (tasks, dim)."""
    _check(bowls, theta)
    a, vectors = _eigen(bowls)
    offset = (vectors.mT @ (theta - bowls.centre)[..., None])[..., 0]
    return a, offset**2, _along(noise, vectors) / shots


def _bias_variance(a: Tensor, squares: Tensor, variances: Tensor, lr: float, steps: int | Tensor) -> QuickStart:
    """Return bias and variance, (tasks,), or (counts, tasks) for ``steps`` (counts, 1, 1)."""
    left = (1 - lr * a) ** steps
    # A direction without curvature has no loss, however far the noise carries it.
    gained = torch.where(a > 0, (1 - left) ** 2 / a, 0.0)
    return QuickStart(0.5 * (a * left**2 * squares).sum(-1), 0.5 * (gained * variances).sum(-1))


def _check(bowls: Bowls, theta: Tensor | None = None) -> None:
    curvature, centre = bowls
    if centre.ndim != 2 or not len(centre) or curvature.shape != (*centre.shape, centre.shape[-1]):
        shapes = f"{tuple(curvature.shape)} and {tuple(centre.shape)}"
        raise ValueError(f"Bowls: expected curvature (tasks, dim, dim) and centre (tasks, dim); got {shapes}")
    if curvature.dtype != centre.dtype or not centre.is_floating_point():
        raise TypeError(
            f"Bowls: curvature is {curvature.dtype}, centre {centre.dtype}; pass one floating type for both"
        )
    if not (curvature.isfinite().all() and centre.isfinite().all()):
        raise ValueError("Bowls: curvature or centre is not finite")
    if (curvature - curvature.mT).abs().max() > _rounding(curvature):
        raise ValueError("Bowls: curvature is not symmetric; pass (curvature + curvature.mT) / 2, the same bowls")
    if theta is not None and theta.shape != centre.shape[1:]:
        raise ValueError(f"theta: expected {tuple(centre.shape[1:])}, like one centre; got {tuple(theta.shape)}")


def _rounding(values: Tensor) -> Tensor:
    """Return what may be rounding in these values: half their digits."""
    return math.sqrt(torch.finfo(values.dtype).eps) * values.abs().max()


def _check_steps(lr: float, steps: int = 1, shots: int = 1) -> None:
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and not negative; got {lr}")
    for name, value, least in (("steps", steps, 0), ("shots", shots, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer from {least} up; got {value!r}")

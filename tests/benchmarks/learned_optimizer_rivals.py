"""Classical rivals, each tuned by grid for its family and horizon, and solvers that see exact quadratics."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import learned_optimizer_problems as problems_of
import torch
from learned_optimizer_problems import DTYPE, Family, Problems
from torch import Tensor

SMOKE = "SCIMETA_SMOKE" in os.environ
_CHUNK = 100_000  # numbers moved at once
_LONG, _FEW = (200, 64) if not SMOKE else (20, 16)

Step = Callable[[Tensor, Tensor, tuple, int, tuple[Tensor, ...]], tuple[Tensor, tuple]]
"""(x, gradient, state, steps done, hyper-parameters) -> x and state after the step; grids are leading axes."""


class Tuned(NamedTuple):
    """A rival at its best.

    Attributes:
        best: its hyper-parameters: rate, momentum or betas, and 1 if the rate falls to zero.
        scores: (test problems,).
        validated: mean score on the validation problems.
    """

    best: tuple[float, ...]
    scores: Tensor
    validated: float


def sgd(x: Tensor, g: Tensor, state: tuple, _: int, choice: tuple[Tensor, ...]) -> tuple[Tensor, tuple]:
    (lr,) = choice
    return x - lr * g, state


def heavy_ball(x: Tensor, g: Tensor, state: tuple, _: int, choice: tuple[Tensor, ...]) -> tuple[Tensor, tuple]:
    lr, decay = choice
    velocity = g if not state else decay * state[0] + g
    return x - lr * velocity, (velocity,)


def nesterov(x: Tensor, g: Tensor, state: tuple, _: int, choice: tuple[Tensor, ...]) -> tuple[Tensor, tuple]:
    lr, decay = choice
    velocity = g if not state else decay * state[0] + g
    return x - lr * (g + decay * velocity), (velocity,)


def adam(x: Tensor, g: Tensor, state: tuple, done: int, choice: tuple[Tensor, ...]) -> tuple[Tensor, tuple]:
    lr, first, second = choice
    m, v = state or (torch.zeros_like(x), torch.zeros_like(x))
    m, v = m + (1 - first) * (g - m), v + (1 - second) * (g * g - v)
    root = (v / (1 - second ** (done + 1))).sqrt_().add_(1e-8)
    return x - lr / (1 - first ** (done + 1)) * (m / root), (m, v)


def _powers(low: float, high: float, number: int) -> Tensor:
    return torch.logspace(low, high, 3 if SMOKE else number, dtype=DTYPE)


def _some(*values: float) -> Tensor:
    return torch.tensor(values[:2] if SMOKE else values, dtype=DTYPE)


_DECAYS = _some(0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
_FALLS = _some(0.0, 1.0)
GRIDS: dict[str, tuple[Step, tuple[Tensor, ...]]] = {
    "SGD": (sgd, (_powers(-4, 1.5, 45), _FALLS)),
    "heavy ball": (heavy_ball, (_powers(-4, 1, 31), _DECAYS, _FALLS)),
    "Nesterov": (nesterov, (_powers(-4, 1, 31), _DECAYS, _FALLS)),
    "Adam": (adam, (_powers(-3, 0.75, 24), _some(0.0, 0.5, 0.8, 0.9, 0.95), _some(0.5, 0.8, 0.95, 0.999), _FALLS)),
}
"""Name -> step, and the axes of its grid: the first is the rate, the last whether it falls (linearly, to zero)."""


def descend(problems: Problems, step: Step, choices: tuple[Tensor, ...], steps: int) -> Tensor:
    """Return (choices, problems) scores after so many steps with each choice of the hyper-parameters, (choices,)."""
    number, dimension = problems.problem.start.shape
    each = max(1, _CHUNK // (number * dimension))
    scores = []
    for first in range(0, len(choices[0]), each):
        some = tuple(choice[first : first + each, None, None] for choice in choices)
        x, state = torch.zeros(len(some[0]), number, dimension, dtype=DTYPE), ()
        for done in range(steps):
            rate = some[0] * (1 - some[-1] * done / steps)
            x, state = step(x, problems.gradient(x, done), state, done, (rate, *some[1:-1]))
        scores.append(problems.score(x))
    return torch.cat(scores)


@functools.cache
def tuned(family: Family, steps: int, name: str) -> Tuned:
    """Return a rival at the best of its grid, then of a finer one around it, by the mean score in validation.

    The first grid is gone through with some of the validation problems, the finer one with all.
    """
    seen = problems_of.validation(family, steps)
    few = problems_of.draw(family, steps, _FEW if steps <= _LONG else _FEW // 2, problems_of.VALIDATION_SEED)
    step, axes = GRIDS[name]
    best, _ = _best(few, step, torch.cartesian_prod(*axes), steps)
    best, validated = _best(seen, step, _around(best, axes), steps)
    test = problems_of.test(family, steps)
    return Tuned(tuple(best.tolist()), descend(test, step, tuple(value[None] for value in best), steps)[0], validated)


def _best(problems: Problems, step: Step, grid: Tensor, steps: int) -> tuple[Tensor, float]:
    """Return the best row of a grid (choices, hyper-parameters) and its mean score."""
    means = descend(problems, step, tuple(grid.unbind(1)), steps).mean(1)
    row = means.argmin()
    return grid[row], float(means[row])


def _around(best: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
    """Return a finer grid: the rate by less than the coarse grid's step, the others between their neighbours."""
    ratio = float(axes[0][1] / axes[0][0])
    finer = [best[0] * ratio ** torch.linspace(-0.75, 0.75, 7, dtype=DTYPE)]
    for value, axis in zip(best[1:-1], axes[1:-1], strict=True):
        row = int((axis - value).abs().argmin())
        low, high = axis[max(row - 1, 0)], axis[min(row + 1, len(axis) - 1)]
        finer.append(torch.stack([(low + value) / 2, value, (value + high) / 2]).unique())
    return torch.cartesian_prod(*finer, best[-1:])


def conjugate_gradient(problems: Problems, steps: int) -> Tensor:
    """Return (problems,) scores of conjugate gradients with exact line search, a gradient and a curvature a step.

    Reference: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952).
    """
    x = torch.zeros_like(problems.problem.start)
    g = problems.gradient(x, 0)
    direction = -g
    for _ in range(steps):
        bent = _times_hessian(problems, direction)
        length = _ratio(-_dot(g, direction), _dot(direction, bent))
        x, new = x + length * direction, g + length * bent
        g, direction = new, -new + _ratio(_dot(new, new), _dot(g, g)) * direction
    return problems.score(x)


def lbfgs(problems: Problems, steps: int, memory: int = 10) -> Tensor:
    """Return (problems,) scores of L-BFGS with exact line search, a gradient and a curvature a step.

    Reference: Nocedal, Math. Comput. 35, 773 (1980).
    """
    x = torch.zeros_like(problems.problem.start)
    g, pairs = problems.gradient(x, 0), []
    for _ in range(steps):
        direction = -_two_loops(g, pairs[-memory:])
        bent = _times_hessian(problems, direction)
        move = _ratio(-_dot(g, direction), _dot(direction, bent)) * direction
        new = g + _times_hessian(problems, move)
        pairs.append((move, new - g))
        x, g = x + move, new
    return problems.score(x)


def _two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return (problems, dimension): the approximate inverse Hessian times the gradient."""
    weights = []
    for s, y in reversed(pairs):
        weights.append(_ratio(_dot(s, g), _dot(s, y)))
        g = g - weights[-1] * y
    if pairs:
        s, y = pairs[-1]
        g = torch.where(_dot(y, y) > 0, _ratio(_dot(s, y), _dot(y, y)), 1.0) * g
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        g = g + (weight - _ratio(_dot(y, g), _dot(s, y))) * s
    return g


def _times_hessian(problems: Problems, direction: Tensor) -> Tensor:
    return (problems.problem.hessian @ direction[..., None])[..., 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where the solve has ended and both are nothing."""
    return torch.where(b.abs() > 1e-300, a / torch.where(b.abs() > 1e-300, b, 1.0), 0.0)

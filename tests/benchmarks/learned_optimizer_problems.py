"""The problems of the learned optimisers' benchmark, drawn for validation and for the test, and how they are scored.

A score is log10 of the final over the initial noise-free value; means over problems are geometric means of the ratio.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scimeta.core.tasks import TaskSampler
from scimeta.domains import landscapes

SMOKE = "SCIMETA_SMOKE" in os.environ
VALIDATION, TEST = (16, 32) if SMOKE else (256, 512)
HORIZONS = (5, 10) if SMOKE else (20, 100)
LONG = 40 if SMOKE else 1000
SMOOTH_STEPS = 5
NOISE = 0.1
DTYPE = torch.float64
VALIDATION_SEED, _TEST_SEED, _CENTRE_SEED = 101, 202, 303
_TINY = 1e-300
_WORST = 3.0  # at which a run is scored that ended a thousand times above its start, or nowhere


class Family(NamedTuple):
    """A family of problems and the dimension of what moves.

    Attributes:
        name: as printed.
        dimension: of the displacement.
        sampler: (steps, dtype) -> a sampler with gradient noise for so many steps.
        floor: scores below it count as this.
    """

    name: str
    dimension: int
    sampler: Callable[[int, torch.dtype], TaskSampler]
    floor: float = -math.inf


class Problems(NamedTuple):
    """A drawn batch.

    Attributes:
        problem: the family's NamedTuple, each tensor (problems, ...).
        noise: (problems, steps, dimension) of the gradients.
        floor: scores below it count as this.
    """

    problem: Any
    noise: Tensor
    floor: float = -math.inf

    def value(self, x: Tensor) -> Tensor:
        """Return the noise-free values (..., problems) at displacements (..., problems, dimension)."""
        return self.problem.value(self.problem.start + x)

    def gradient(self, x: Tensor, step: int) -> Tensor:
        """Return what an optimiser sees at displacements (..., problems, dimension)."""
        if isinstance(self.problem, landscapes.Quadratic):  # by hand: a third of the time
            slope = torch.einsum("nij,...nj->...ni", self.problem.hessian, self.problem.start + x - self.problem.centre)
        else:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.value(x).sum(), x)
        return slope + self.noise[:, step]

    def score(self, x: Tensor) -> Tensor:
        """Return (..., problems) log10 of the value at x over that at the start, at most 3 (diverged)."""
        ratio = self.value(x) / self.value(torch.zeros_like(self.problem.start))
        return (ratio + _TINY).log10().nan_to_num(nan=_WORST).clamp(self.floor, _WORST)


def rotated(noise: float, dimension: int = 10, name: str | None = None) -> Family:
    """Rotated ravines, conditioning 10 to 1000."""
    return quadratic_family(name or f"{'noisy' if noise else 'clean'} ravines", dimension, noise=noise)


def quadratic_family(name: str, dimension: int = 10, **options: Any) -> Family:
    return Family(
        name,
        dimension,
        lambda steps, dtype: landscapes.quadratics(dimension, steps=steps, dtype=dtype, **options),
    )


def curved(noise: float) -> Family:
    """Curved ravines of five pairs."""
    name = f"curved ravines, {'noisy' if noise else 'clean'}"
    return Family(name, 10, lambda steps, dtype: landscapes.curved_ravines(steps=steps, noise=noise, dtype=dtype))


def shared_centre() -> Tensor:
    """The one centre of the smooth similar tasks and of the control, drawn from 2 N(0, I)."""
    return 2.0 * torch.randn(10, generator=torch.Generator().manual_seed(_CENTRE_SEED), dtype=torch.float64)


NOISY, CLEAN = rotated(NOISE), rotated(0.0)
FLOORED = CLEAN._replace(name="clean ravines, scores no lower than -12", floor=-12.0)
UNKNOWN = quadratic_family("noisy ravines, unknown steepness", noise=NOISE, steepness=(1 / 30, 30.0))
KNOWN = quadratic_family("noisy ravines, one known scale", noise=NOISE, scale=(1.0, 1.0))
SMOOTH = quadratic_family("similar smooth", noise=0.0, conditioning=(1.0, 3.0), centre=shared_centre(), spread=0.1)
SHARED = quadratic_family("noisy ravines, shared centre", noise=NOISE, centre=shared_centre(), spread=0.1)


def draw(family: Family, steps: int, number: int, seed: int) -> Problems:
    """Return a batch in float64, in which figures below 1e-10 have their digits."""
    task = family.sampler(steps, DTYPE)(number, torch.Generator().manual_seed(seed))
    return Problems(task.support.held, task.support.each, family.floor)


def validation(family: Family, steps: int) -> Problems:
    return draw(family, steps, VALIDATION, VALIDATION_SEED)


def test(family: Family, steps: int) -> Problems:
    return draw(family, steps, TEST, _TEST_SEED)


def bayes_limit(problems: Problems, steps: int, noise: float = NOISE) -> Tensor:
    """Return (problems,) scores of the posterior mean of the optimum, given so many gradients, hessian and noise.

    A gradient H (x - c) + noise tells of H c with the same precision wherever it is taken, so that under c ~ N(0, I)
    the posterior covariance after t of them is (I + t H^2 / noise^2)^-1: along an axis of eigenvalue e the mean misses
    c by v c - (1 - v) mean noise / e, with v = 1 / (1 + t e^2 / noise^2).
    """
    eigenvalues, axes = torch.linalg.eigh(problems.problem.hessian)
    along = lambda vectors: (axes.mT @ vectors[..., None])[..., 0]  # noqa: E731
    centre, mean_noise = along(problems.problem.centre), along(problems.noise[:, :steps].mean(1))
    v = 1 / (1 + steps * eigenvalues**2 / noise**2)
    miss = v * centre - (1 - v) * mean_noise / eigenvalues
    return ((eigenvalues * miss**2).sum(-1) / (eigenvalues * centre**2).sum(-1)).log10()

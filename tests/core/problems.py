"""Small problems on which several of the core's tests train, with what draws and compares their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scimeta import analytic
from scimeta.core.tasks import Task

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=F64).to(dtype)


def seeds(always: int, slowly: int) -> list[Any]:
    """Return the seeds of a fuzzer: the first in every run, the others, up to ``slowly``, in the slow one."""
    return [*range(always), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(always, slowly))]


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Assert that the tensors of two nests agree, relatively or absolutely."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two nests differ in a single bit."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {set(one) ^ set(other)}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [where]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, pair in pairs for found in differences(*pair, f"{where}[{i}]")]
    if isinstance(one, Tensor):
        equal = one.dtype == other.dtype and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5))
        return [] if equal else [where]
    return [] if one == other or (one != one and other != other) else [where]


# A network of one hidden layer, its data random numbers.

PARAMS = {"w": normal(2, 3, seed=1), "b": normal(3, seed=2), "head": normal(3, seed=3)}


def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    x, y = d
    return ((torch.tanh(x @ p["w"] + p["b"]) @ p["head"] - y) ** 2).mean()


def tasks(number: int = 5, seed: int = 0) -> Task:
    x, y = normal(2, number, 4, 2, seed=seed), normal(2, number, 4, seed=seed + 1)
    return Task((x[0], y[0]), (x[1], y[1]))


# A line and a wave fitted to a parabola where it is looked at.

LINE = {"a": torch.tensor([0.5, -1.0], dtype=F64), "b": torch.tensor(0.1, dtype=F64)}


def line(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return ((torch.sin(params["a"][0] * x) + params["a"][1] * x + params["b"] - x**2 / 4) ** 2).mean()


def draw(number: int, generator: torch.Generator) -> Task:
    x = 2 * torch.rand(number, 9, generator=generator, dtype=F64)
    return Task(x[:, :4], x[:, 4:])


def bowls(number: int = 4, dim: int = 3, seed: int = 0) -> analytic.Bowls:
    """Return quadratic tasks of different curvature, 0.5 or more in every direction."""
    root = normal(number, dim, dim, seed=seed)
    return analytic.Bowls(root @ root.mT + 0.5 * torch.eye(dim, dtype=F64), normal(number, dim, seed=seed + 1))

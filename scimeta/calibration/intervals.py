"""Estimates, bands, and the quantiles behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """One parameter of one specimen.

    Attributes:
        name: the parameter.
        value: posterior median, or the least-squares value; in ``unit``.
        lower: lower end of the interval; nan where none can be defended, and then ``reason`` says why.
        upper: upper end.
        level: probability that the interval is meant to hold, between 0 and 1.
        unit: unit of value, lower and upper; "" if the parameter has none.
        std: posterior standard deviation, or the standard error.
        from_data: share of the knowledge that came from this specimen's data, 0 (all from the prior) to 1:
            1 - posterior variance / prior variance, of the unconstrained parameter.
        reason: why there is no interval; "" if there is one.
        at_bound: True if the value is an end of the parameter's support, which least squares may find.
    """

    name: str
    value: float
    lower: float
    upper: float
    level: float
    unit: str
    std: float
    from_data: float
    reason: str = ""
    at_bound: bool = False

    def __str__(self) -> str:
        value = f"{self.name} = {self.value:.4g}{' ' + self.unit if self.unit else ''}"
        bound = "at its bound; " if self.at_bound else ""
        return f"{value} ({self.reason or f'{bound}{self.level:.0%} interval {self.interval}'})"

    @property
    def interval(self) -> str:
        """The interval as text; "-" if there is none."""
        if np.isnan(self.lower):
            return "-"
        return (
            f"> {self.lower:.4g}"
            if self.upper == np.inf and self.lower > 0.0
            else f"{self.lower:.4g} to {self.upper:.4g}"
        )


class Band(NamedTuple):
    """A pointwise interval of a curve.

    Attributes:
        x: (points,).
        lower: (points,), or (specimens, points) for many specimens; nan where no band can be defended.
        upper: like ``lower``.
        level: probability that the band is meant to hold at each point.
    """

    x: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float


def weighted_quantiles(values: Tensor, weights: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """Return the quantiles of weighted values along the last axis, linear between midpoints of the weights.

    Args:
        values: (..., nodes).
        weights: broadcasts to values; sums to 1 along the last axis.
        levels: probabilities between 0 and 1.
    Returns: one (...,) tensor a level.

    >>> weighted_quantiles(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.25, 0.25, 0.5]), [0.5])
    [tensor(2.)]
    """
    if values.shape[-1] == 1:
        return [values[..., 0] for _ in levels]
    ordered, order = values.sort(-1)
    weight = weights.expand(values.shape).gather(-1, order)
    middle = weight.cumsum(-1) - 0.5 * weight
    result = []
    for level in levels:
        wanted = torch.full((*middle.shape[:-1], 1), level, dtype=middle.dtype)
        right = torch.searchsorted(middle.contiguous(), wanted).clamp(1, middle.shape[-1] - 1)
        low, high = middle.gather(-1, right - 1), middle.gather(-1, right)
        share = ((wanted - low) / (high - low).clamp(min=1e-300)).clamp(0.0, 1.0)
        below, above = ordered.gather(-1, right - 1), ordered.gather(-1, right)
        result.append((below + share * (above - below))[..., 0])
    return result


def probability(level: float) -> float:
    """Return the level; raises ValueError unless it lies between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1; got {level} (0.9 for 90 %)")
    return float(level)


def abscissa(x: ArrayLike) -> Tensor:
    """Return x as a (points,) float64 tensor; raises ValueError where it is not finite or not flat."""
    at = np.array(x, dtype=float)  # a copy: torch warns of arrays that it must not write to
    if at.ndim != 1:
        raise ValueError(f"x has shape {at.shape}; pass a flat array, (points,)")
    if not np.isfinite(at).all():
        raise ValueError(f"x[{int((~np.isfinite(at)).argmax())}] is not finite")
    return torch.from_numpy(at)

"""Measurements that are wrong: how many, how far off, and what that makes of a residual."""

from __future__ import annotations

from math import gamma, pi
from typing import NamedTuple

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

DOF = 4.0  # of Student's t: an outlier twice as far off as any before does not pull the law after it
_STUDENT = gamma((DOF + 1) / 2) / gamma(DOF / 2) / (DOF * pi) ** 0.5  # density of the standard t at 0


class Outliers(NamedTuple):
    """Contaminated noise, r ~ (1 - share) N(0, noise^2) + share [t(r - shift) + t(r + shift)] / 2.

    t is Student's with four degrees of freedom, scaled by ``spread``. A shift of 0 is plain heavy tails.

    Attributes:
        share: of the points, 0 to 1.
        shift: how far off they typically are, to either side, in the unit of y; 0 or more.
        spread: scale around it, in the unit of y.

    >>> around = Outliers(0.05, 0.15, 0.02)
    >>> around.probability(torch.tensor([0.0, 0.15]), torch.tensor([50.0, 50.0])).round(decimals=2)
    tensor([0., 1.])
    """

    share: float
    shift: float
    spread: float

    @property
    def sd(self) -> float:
        """Root of an outlier's mean square residual."""
        return (self.shift**2 + self.spread**2 * DOF / (DOF - 2.0)) ** 0.5

    def parts(self, residual: Tensor, inverse_sd: Tensor, extra: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Return share x density of the ordinary and of the wrong measurements at each residual.

        Args:
            residual: (..., points).
            inverse_sd: broadcasts with it; 1 / standard deviation of an ordinary one.
            extra: variance that both have beyond that, as where the law itself is uncertain.
        """
        precision = inverse_sd**2 / (1.0 + extra * inverse_sd**2)
        ordinary = (residual**2).mul_(-0.5 * precision).exp_()
        ordinary *= precision.sqrt() * ((1.0 - self.share) / (2 * pi) ** 0.5)
        scale = torch.as_tensor(self.spread**2 + extra, dtype=residual.dtype)
        factor = 0.5 * self.share * _STUDENT / scale.sqrt()
        near, far = (_tail(residual.abs(), sign * self.shift, DOF * scale) for sign in (1.0, -1.0))
        return ordinary, near.add_(far).mul_(factor)

    def probability(self, residual: Tensor, inverse_sd: Tensor) -> Tensor:
        """Return the probability that a measurement with this residual is wrong, of the residual's shape."""
        ordinary, wrong = self.parts(residual, inverse_sd)
        return wrong / (ordinary + wrong)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return errors of wrong measurements, of this shape."""
        side = rng.choice((-1.0, 1.0), shape)
        return side * self.shift + self.spread * rng.standard_t(DOF, shape)

    def errors(self, count: int, noise: Tensor) -> Tensor:
        """Return (specimens, count) errors of measurements, spread evenly over their distribution.

        Args:
            count: how many a specimen.
            noise: (specimens,) standard deviation of the ordinary ones.
        """
        even = (np.arange(count) + 0.5) * 0.6180339887498949 % 1.0  # in an order unrelated to the nodes' own
        other = (np.arange(count) + 0.5) * 0.7548776662466927 % 1.0
        side = np.where(other < 0.5 * self.share, -1.0, 1.0)
        wrong = torch.from_numpy(side * self.shift + self.spread * stats.t.ppf(even, DOF))
        ordinary = torch.from_numpy(special.ndtri(even)) * noise[:, None]
        return torch.where(torch.from_numpy(other < self.share), wrong, ordinary)


def _tail(size: Tensor, shift: float, scale: Tensor) -> Tensor:
    """Return (1 + (size - shift)^2 / scale)^-(DOF + 1)/2 for four degrees of freedom; a power is ten times slower."""
    q = size.sub(shift).square_().div_(scale).add_(1.0)
    return q.sqrt().mul_(q).mul_(q).reciprocal_()


class Tally(NamedTuple):
    """Sums over points and nodes from which noise and outliers are learned anew."""

    ordinary: float = 0.0  # expected number of ordinary points
    square: float = 0.0  # their squared residuals
    wrong: float = 0.0  # expected number of outliers
    weight: float = 0.0  # the same, each weighed as Student's t weighs it
    first: float = 0.0  # weighed distances
    second: float = 0.0  # weighed squared distances

    def plus(self, other: Tally) -> Tally:
        """Return the sums over both."""
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))

    def outliers(self, floor: float) -> tuple[float, Outliers]:
        """Return noise and outliers; the noise is at least ``floor``."""
        noise = max((self.square / max(self.ordinary, 1e-300)) ** 0.5, floor)
        share = self.wrong / (self.wrong + self.ordinary)
        shift = self.first / max(self.weight, 1e-300)
        spread = ((self.second - self.weight * shift**2) / max(self.wrong, 1e-300)) ** 0.5
        return noise, Outliers(min(max(share, 1e-6), 0.4), max(shift, 0.0), max(spread, 0.5 * noise))


def tally(
    residual: Tensor, weights: Tensor | float, noise: float, outliers: Outliers, relative: Tensor | float = 1.0
) -> Tally:
    """Return the expected sums.

    Args:
        residual: any shape, of points without a sigma.
        weights: broadcasts with it.
        noise, outliers: as they stand.
        relative: standard deviation of each ordinary point over the noise; broadcasts with the residual.
    """
    ordinary, _ = outliers.parts(residual, torch.as_tensor(1.0 / (noise * relative), dtype=residual.dtype))
    size = residual.abs()
    sums = [0.0, 0.0, 0.0, 0.0]
    sides = []
    for distance in (size, -size):  # an outlier on the residual's own side, or beyond the law from the other
        away = (distance - outliers.shift) ** 2 / outliers.spread**2
        q = 1.0 + away / DOF
        sides.append((distance, q, (0.5 * outliers.share * _STUDENT / outliers.spread) / (q * q * q.sqrt())))
    whole = ordinary + sides[0][2] + sides[1][2]
    for distance, q, density in sides:
        member = density / whole * weights
        pull = member * ((DOF + 1.0) / DOF) / q
        for i, part in enumerate((member, pull, pull * distance, pull * distance**2)):
            sums[i] += float(part.nan_to_num().sum())
    usual = ordinary / whole * weights
    return Tally(float(usual.nan_to_num().sum()), float((usual * (residual / relative) ** 2).nan_to_num().sum()), *sums)


def first_outliers(residual: Tensor) -> tuple[float, Outliers, float]:
    """Return noise, outliers and the log likelihood that they gain over a Gaussian, from plain residuals (points,)."""
    rms = float((residual**2).mean()) ** 0.5
    noise = min(max(float(residual.abs().median()) / 0.6745, 1e-3 * rms), rms)
    if noise <= 0.0:
        return rms, Outliers(1e-6, 0.0, 1.0), 0.0
    far = residual.abs()[residual.abs() > 4.0 * noise]
    if len(far) < 2:
        return rms, Outliers(1e-6, 0.0, rms), 0.0
    spread = max(float(far.std()), noise)
    outliers = Outliers(max(len(far) / len(residual), 1e-4), float(far.median()), spread)
    for _ in range(100):
        noise, outliers = tally(residual, 1.0, noise, outliers).outliers(1e-6 * rms)
    ordinary, wrong = outliers.parts(residual, torch.as_tensor(1.0 / noise, dtype=residual.dtype))
    gaussian = -len(residual) * (np.log(rms) + 0.5 * np.log(2 * np.pi) + 0.5)
    return noise, outliers, float((ordinary + wrong).log().sum()) - gaussian

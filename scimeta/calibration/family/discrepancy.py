"""What a law gets wrong along x: in the same way in all specimens, and in each specimen in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Points
from scimeta.calibration.nodes import normal_nodes_beside

KNOTS = 6
_MANY = 300  # nodes, of which one pair of draws each is enough
_CHUNK = 64  # specimens whose curves at the nodes are held at once

Curves = Callable[[slice], Tensor]
"""Specimens -> (specimens, nodes, points) what the law predicts at their nodes."""


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """A family's discrepancy over x, y = f(x, theta) + Phi(x) b, with b ~ N(mean, diag(variance)) of each specimen.

    Phi are straight lines between knots (hat functions), constant beyond the outermost. Given theta the measurements
    are Gaussian, so that b is integrated over in closed form: points where the law is not to be trusted count less.

    Attributes:
        knots: (knots,) x, rising.
        mean: (knots,) what all specimens have in common, in the unit of y.
        variance: (knots,) of the specimens' own parts around it.

    Raises:
        ValueError: fewer than two knots, knots that do not rise, shapes that differ, values that are not finite, a
            negative variance.

    Reference: Kennedy, O'Hagan, J. R. Stat. Soc. B 63, 425 (2001).

    >>> late = Discrepancy(np.array([0.0, 1.0]), np.array([0.0, 0.5]), np.array([0.0, 0.01]))
    >>> late.basis(torch.tensor([0.25, 3.0]))
    tensor([[0.7500, 0.2500],
            [0.0000, 1.0000]])
    """

    knots: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def __post_init__(self) -> None:
        for name in ("knots", "mean", "variance"):
            value = np.asarray(getattr(self, name), dtype=float)
            object.__setattr__(self, name, value)
            if value.shape != np.shape(self.knots) or value.ndim != 1 or not np.isfinite(value).all():
                raise ValueError(
                    f"discrepancy: {name} has shape {value.shape}; expected one finite value for each knot"
                )
        if len(self.knots) < 2 or (np.diff(self.knots) <= 0).any():
            raise ValueError(f"discrepancy: needs two knots or more, rising; got {self.knots.tolist()}")
        if (self.variance < 0).any():
            raise ValueError(f"discrepancy: a variance is negative: {self.variance.tolist()}")

    @cached_property
    def mean_(self) -> Tensor:
        """``mean`` as a tensor."""
        return torch.from_numpy(self.mean)

    @cached_property
    def variance_(self) -> Tensor:
        """``variance`` as a tensor."""
        return torch.from_numpy(self.variance)

    def basis(self, x: Tensor) -> Tensor:
        """Return Phi at x: (..., points) -> (..., points, knots)."""
        knots = torch.from_numpy(self.knots).to(x.dtype)
        inside = x.clamp(knots[0], knots[-1]).contiguous()
        right = torch.searchsorted(knots, inside).clamp(1, len(knots) - 1)
        share = ((inside - knots[right - 1]) / (knots[right] - knots[right - 1]))[..., None]
        unit = torch.eye(len(knots), dtype=x.dtype)
        return unit[right - 1] * (1.0 - share) + unit[right] * share

    def absorbed(self, points: Points) -> Points:
        """Return the measurements less the common part, whitened by noise and specimens' own parts together."""
        basis = self.basis(points.x)
        return Points(points.x, points.y - basis @ self.mean_, self._whitening(basis, points.inverse_sd))

    def _whitening(self, basis: Tensor, inverse_sd: Tensor) -> Tensor:
        """Return (specimens, points, points): the inverse Cholesky factor of the covariance; 0 at padding."""
        scaled = basis * (self.variance_.sqrt() * inverse_sd[..., None])  # (specimens, points, knots)
        factor = torch.linalg.cholesky(_identity(scaled.shape[-2]) + scaled @ scaled.mT)
        return torch.linalg.solve_triangular(factor, torch.diag_embed(inverse_sd), upper=False)

    def conditional(self, points: Points) -> tuple[Tensor, Tensor]:
        """Return how b follows the residuals y - f - Phi mean: gain (specimens, knots, points), and its covariance.

        Args:
            points: as measured (with a diagonal noise).
        """
        scale = self.variance_.sqrt()
        scaled = self.basis(points.x) * (scale * points.inverse_sd[..., None])
        inner = _identity(len(scale)) + scaled.mT @ scaled
        gain = scale[:, None] * torch.linalg.solve(inner, scaled.mT) * points.inverse_sd[:, None]
        return gain, scale[:, None] * torch.linalg.inv(inner) * scale

    def draw(self, points: Points, curves: Curves, fast: int) -> Tensor:
        """Return (specimens, draws, nodes, knots): b at each posterior node, from its exact distribution given that.

        The draws are quasi-random and come in pairs on either side of their mean, which therefore is exact.

        Args:
            points: as measured.
            curves: what the law predicts at the nodes, at the points' x.
            fast: number of parameters whose nodes these are.
        """
        gain, covariance = self.conditional(points)
        factor, knots, result = _root(covariance), len(self.knots), None
        for rows in _slices(len(points.x)):
            centre = self.mean_ + self._residual(points, curves, rows) @ gain[rows].mT
            count = centre.shape[1]
            one = normal_nodes_beside(count, knots, fast)
            sides = [one, one.roll(count // 3, 0)] if count < _MANY else [one]
            if result is None:
                result = centre.new_empty(len(points.x), 2 * len(sides), count, knots)
            for i, side in enumerate(sides):
                around = side @ factor[rows].mT
                torch.add(centre, around, out=result[rows, 2 * i])
                torch.sub(centre, around, out=result[rows, 2 * i + 1])
        assert result is not None  # there is a specimen
        return result

    def _residual(self, points: Points, curves: Curves, rows: slice) -> Tensor:
        """Return (specimens, nodes, points): y - f - Phi mean; 0 at padding."""
        target = points.y[rows] - self.basis(points.x[rows]) @ self.mean_
        residual = target[:, None] - curves(rows)
        return torch.where((points.inverse_sd[rows] > 0)[:, None], residual, 0.0).nan_to_num()

    def moments(self, points: Points, curves: Curves, weights: Tensor, free: Tensor) -> Moments:
        """Return what the posteriors say of every specimen's b.

        Args:
            points, curves: as for :meth:`draw`.
            weights: (specimens, nodes).
            free: (specimens, points) bool, the points whose noise is to be learned.
        """
        gain, covariance = self.conditional(points)
        basis = self.basis(points.x)
        own = ((basis @ covariance) * basis).sum(-1)  # (specimens, points) variance of Phi b, theta known
        mean, variance, square = [], [], float((own * free).sum())
        for rows in _slices(len(weights)):
            residual, w = self._residual(points, curves, rows), weights[rows, :, None]
            b = residual @ gain[rows].mT  # (specimens, nodes, knots), less the mean
            centre = (w * b).sum(1)
            mean.append(self.mean_ + centre)
            variance.append((w * (b - centre[:, None]) ** 2).sum(1) + covariance[rows].diagonal(dim1=-2, dim2=-1))
            left = (residual - b @ basis[rows].mT) * free[rows, None]
            square += float((w * left * left).sum())
        return Moments(torch.cat(mean), torch.cat(variance), square)

    def updated(self, moments: Moments, imitated: Tensor, *, hold_mean: bool = False) -> Discrepancy:
        """Return the discrepancy that the specimens' b suggest (the M step).

        What a common change of the parameters can imitate is taken out of the common part and left to them, so that
        they keep their meaning (Plumlee, J. Am. Stat. Assoc. 112, 1274, 2017).

        Args:
            moments: of the specimens' b.
            imitated: (parameters, knots) sum over the past of the law's derivatives times the basis.
            hold_mean: True to learn the variance alone.
        """
        count = len(moments.mean)
        mean = self.mean_ if hold_mean else moments.mean.mean(0)
        if not hold_mean:
            q = torch.linalg.qr(imitated.mT)[0]  # (knots, parameters)
            mean = mean - q @ (q.mT @ mean)
        scatter = ((moments.mean - mean) ** 2).sum(0) / max(count - 1, 1)
        return Discrepancy(self.knots, mean.numpy(), (scatter + moments.variance.mean(0)).numpy())

    def predictive(self, count: int) -> Discrepancy:
        """Return what is expected of a new specimen, when mean and variance were learned from so many."""
        if count < 2:
            return self
        widening = (1.0 + 1.0 / count) * max(count - 1, 3) / (max(count - 1, 3) - 2.0)
        return Discrepancy(self.knots, self.mean, widening * self.variance)


class Moments(NamedTuple):
    """Posterior moments of the specimens' b.

    Attributes:
        mean, variance: (specimens, knots).
        square: expected squared residual around law and discrepancy, summed over the points whose noise is learned.
    """

    mean: Tensor
    variance: Tensor
    square: float


def first_discrepancy(x: Tensor, mask: Tensor, noise: float) -> Discrepancy | None:
    """Return a discrepancy to start from: knots at quantiles of x, half of the noise's variance at each.

    One knot more than half as many as a specimen has points, six at most: with a knot at every point no misfit is told
    from noise.

    Args:
        x: (specimens, points).
        mask: (specimens, points) False at padding.
        noise: standard deviation of a measurement.
    Returns: None where the points are too few.

    >>> first_discrepancy(torch.tensor([[1.0, 2.0, 3.0, 5.0]]), torch.ones(1, 4).bool(), 0.1).knots.tolist()
    [1.0, 2.5, 5.0]
    """
    count = min(KNOTS, int(mask.sum(-1).median()) // 2 + 1)
    places = np.unique(x[mask].numpy())
    if count < 3 or len(places) < 2 * count - 2:
        return None
    knots = np.unique(np.quantile(x[mask].numpy(), np.linspace(0.0, 1.0, count)))
    if len(knots) < count:
        knots = np.quantile(places, np.linspace(0.0, 1.0, count))
    return Discrepancy(knots, np.zeros(count), np.full(count, 0.5 * noise**2))


def _identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _root(covariance: Tensor) -> Tensor:
    """Return a factor of covariances that may be singular."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    return vectors * values.clamp(min=0.0).sqrt()[..., None, :]


def _slices(count: int) -> list[slice]:
    return [slice(begin, begin + _CHUNK) for begin in range(0, count, _CHUNK)]

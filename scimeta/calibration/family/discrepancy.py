"""What a law misses: a smooth curve that all specimens have in common, and one that each has of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from scimeta.calibration.laws.law import Law

KNOTS = 10
TAPER = 3e-4  # of the size: a sensitivity below makes the discrepancy vanish, the law being at rest there
_NOTHING = 1e-6  # of the largest variance: one below is left out
Coordinate = Literal["prediction", "x"]


class Place(NamedTuple):
    """The law at some parameters, as far as the discrepancy depends on it; all (..., points).

    Attributes:
        x: the abscissa.
        f: the law's prediction.
        sensitivity: standard deviation of the prediction over the population, in the unit of y.
        late: the prediction of a law that starts later by ``Discrepancy.start``, less f; None without a start.
    """

    x: Tensor
    f: Tensor
    sensitivity: Tensor
    late: Tensor | None


class GivenParameters(NamedTuple):
    """What measurements say of the discrepancy's coefficients c = mean + root b where the parameters are known.

        b ~ N(centre, (factor factor')^-1)

    Attributes:
        centre: (..., rank).
        factor: (..., rank, rank) lower triangular.
        log_likelihood: (...) of the measurements, b integrated over.
    """

    centre: Tensor
    factor: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """A family's discrepancy, y = f(x; theta) + Phi(x, theta) c + noise, with c ~ N(mean, covariance) of each specimen.

        Phi_j = e(x, theta) spline_j(s),   e = size v / (v + taper size),   v = sd over the population of f(x)

    ``spline_j`` are the cardinal cubic splines of the knots (1 at one knot, 0 at the others), flat and constant beyond
    the outermost; s is the law's own prediction or a function of x. The envelope e vanishes wherever no parameter moves
    the law, so that X(0) = 0 stays. With a start the last column is f(x - start) - f(x): a clock that begins late.
    Given theta the measurements are Gaussian, so that c is integrated over in closed form.

    Attributes:
        coordinates: of each smooth part, "prediction" (s = f) or "x"; a part has one column a knot.
        knots: of each part, (knots,) of s, rising.
        mean: (columns,) what all specimens have in common.
        covariance: (columns, columns) of the specimens' own coefficients around it; may be singular.
        mean_covariance: (columns, columns) how well the common part is known.
        population: (fast, fast) covariance of the parameters by which the envelope weighs the law's derivatives.
        size: largest |y| of the past.
        taper: see above; 0 for a constant envelope.
        x_scale: s = log(1 + x / x_scale) for the coordinate "x"; 0 for s = x.
        start: by how much later the last column's clock begins, in the unit of x; 0 if there is no such column.

    Raises:
        ValueError: fewer than two knots, knots that do not rise, shapes that differ, values that are not finite, a
            covariance with a negative variance.

    Reference: Kennedy, O'Hagan, J. R. Stat. Soc. B 63, 425 (2001).
    """

    coordinates: tuple[Coordinate, ...]
    knots: tuple[np.ndarray, ...]
    mean: np.ndarray
    covariance: np.ndarray
    mean_covariance: np.ndarray
    population: np.ndarray = field(default_factory=lambda: np.eye(1))
    size: float = 1.0
    taper: float = TAPER
    x_scale: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        for coordinate in self.coordinates:
            if coordinate not in get_args(Coordinate):
                raise ValueError(f'a discrepancy is over "prediction" or "x"; got {coordinate!r}')
        if len(self.knots) != len(self.coordinates):
            raise ValueError(f"discrepancy: {len(self.coordinates)} coordinates, but {len(self.knots)} sets of knots")
        for knots in self.knots:
            if knots.ndim != 1 or len(knots) < 2 or not np.isfinite(knots).all() or not (np.diff(knots) > 0).all():
                raise ValueError(
                    f"the knots of a discrepancy must be two or more finite numbers that rise; got {knots}"
                )
        numbers = {"size": self.size, "taper": self.taper, "x_scale": self.x_scale, "start": self.start}
        for name, value in numbers.items():
            if not np.isfinite(value) or value < 0 or (name == "size" and not value):
                raise ValueError(
                    f"discrepancy: {name} must be finite and not negative, the size positive; got {value!r}"
                )
        columns = sum(map(len, self.knots)) + bool(self.start)
        if self.mean.shape != (columns,) or not np.isfinite(self.mean).all():
            raise ValueError(f"discrepancy: mean must be {columns} finite numbers, one a column; got {self.mean}")
        _require_covariance("covariance", self.covariance, columns)
        _require_covariance("mean_covariance", self.mean_covariance, columns)
        _require_covariance("population", self.population, len(self.population))

    @cached_property
    def _splines(self) -> list[Tensor]:
        """Of each part (4, knots - 1, knots): coefficients of the cardinal splines, the highest power first."""
        return [torch.from_numpy(CubicSpline(k, np.eye(len(k)), bc_type="clamped").c.copy()) for k in self.knots]

    @cached_property
    def mean_(self) -> Tensor:
        """The mean as a tensor."""
        return torch.from_numpy(self.mean)

    @cached_property
    def root(self) -> Tensor:
        """(columns, rank) with root root' = covariance + mean_covariance: what is expected of a new specimen."""
        return psd_root(torch.from_numpy(self.covariance + self.mean_covariance))

    def place(self, law: Law, named: dict[str, Tensor], x: Tensor) -> Place:
        """Return the law at unconstrained parameters, name -> (...), and x (..., points)."""
        f, by = broadcast_linearized(law, named, x)
        J = torch.stack([by[name] for name in law.fast], -1)
        late = None
        if self.start:
            late = law.curve(named, (x - self.start).clamp(min=0.0)) - f
        return self.placed(x, f, J, late)

    def placed(self, x: Tensor, f: Tensor, J: Tensor, late: Tensor | None) -> Place:
        """Return the same from the law's prediction and its derivatives J (..., points, fast)."""
        variance = ((J @ torch.from_numpy(self.population)) * J).sum(-1)
        return Place(x.expand(f.shape), f, variance.clamp(min=0.0).sqrt(), late)

    def columns(self, place: Place) -> Tensor:
        """Return Phi: (..., points, columns)."""
        envelope = torch.full_like(place.f, self.size)
        if self.taper:
            envelope = envelope * place.sensitivity / (place.sensitivity + self.taper * self.size)
        parts = [] if place.late is None else [place.late[..., None]]
        for coordinate, knots, splines in reversed(list(zip(self.coordinates, self.knots, self._splines, strict=True))):
            s = place.f if coordinate == "prediction" else self._of_x(place.x)
            knots = torch.from_numpy(knots)
            s = s.clamp(knots[0], knots[-1]).contiguous()
            interval = torch.searchsorted(knots, s).clamp(1, len(knots) - 1) - 1
            t = (s - knots[interval])[..., None]
            a, b, c, d = (part[interval] for part in splines)
            parts.insert(0, envelope[..., None] * (((a * t + b) * t + c) * t + d))
        return torch.cat(parts, -1)

    def given(self, columns: Tensor, residual: Tensor, inverse_sd: Tensor) -> GivenParameters:
        """Return the posterior of the coefficients at parameters (...): Bayesian linear regression.

        Args:
            columns: (..., points, columns) Phi at these parameters.
            residual: (..., points) measurements less the law.
            inverse_sd: (..., points) 1 / their standard deviations; 0 at padding.
        """
        white = inverse_sd * (residual - columns @ self.mean_)
        Z = (columns @ self.root) * inverse_sd[..., None]
        factor = torch.linalg.cholesky(torch.eye(Z.shape[-1], dtype=Z.dtype) + Z.mT @ Z)
        half = torch.linalg.solve_triangular(factor, Z.mT @ white[..., None], upper=False)
        centre = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
        counted = inverse_sd > 0
        size = torch.where(counted, inverse_sd, 1.0).log() - 0.5 * np.log(2 * np.pi) * counted
        value = (size - 0.5 * white**2).sum(-1)
        value = value + 0.5 * (half**2).sum((-2, -1)) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return GivenParameters(centre, factor, value)

    def _of_x(self, x: Tensor) -> Tensor:
        return torch.log1p(x.clamp(min=0.0) / self.x_scale) if self.x_scale else x


def _require_covariance(name: str, values: np.ndarray, size: int) -> None:
    """Raise ValueError unless the values are a finite symmetric matrix (size, size) without a negative variance."""
    if values.shape != (size, size):
        raise ValueError(f"discrepancy: {name} must be ({size}, {size}); got {values.shape}")
    if not np.isfinite(values).all() or not np.allclose(values, values.T, rtol=1e-6, atol=1e-12 * np.abs(values).max()):
        raise ValueError(f"discrepancy: {name} must be finite and symmetric; got {values}")
    if (values.diagonal() < -1e-12 * np.abs(values).max()).any():
        raise ValueError(f"discrepancy: {name} has a negative variance; got {values.diagonal()}")


def broadcast_linearized(law: Law, named: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return curves and derivatives for parameters (...) and x (..., points) that broadcast."""
    lead = torch.broadcast_shapes(x.shape[:-1], next(iter(named.values())).shape)
    flat = {name: value.expand(lead).reshape(-1) for name, value in named.items()}
    f, by = law.linearized(flat, x.expand(*lead, x.shape[-1]).reshape(-1, x.shape[-1]))
    shape = (*lead, x.shape[-1])
    return f.reshape(shape), {name: d.reshape(shape) for name, d in by.items()}


def psd_root(covariance: Tensor) -> Tensor:
    """Return (columns, rank) R with R R' = covariance, which may be singular; variances of next to nothing are left."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    keep = values > _NOTHING * values[-1].clamp(min=1e-300)
    return vectors[:, keep] * values[keep].sqrt()

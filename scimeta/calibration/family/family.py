"""What is believed of a family of specimens: one value, from the first step of the learning to the last fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured, Points
from scimeta.calibration.family.discrepancy import Discrepancy, GivenParameters
from scimeta.calibration.family.error_model import CONSTANT, ErrorModel
from scimeta.calibration.family.mixture import Mixture, positive_definite
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.laws.law import Law

_DIFFERENCE = 1e-4  # of an unconstrained parameter, for the derivative of the discrepancy


class Component(NamedTuple):
    """One component of a family's mixture.

    Attributes:
        weight: share of the specimens, 0 to 1.
        coefficients: (1 + conditions, fast): the mean at the conditions' centre, then its change per scale of each.
        covariance: (fast, fast), of specimens around their mean; unconstrained.
    """

    weight: float
    coefficients: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True, eq=False)
class Family:
    """A population of specimens, and what lies between its curves and the measurements.

        theta ~ sum_k weight_k N(B_k' z, C_k),   y = f(x; theta, shared) + discrepancy + noise

    z = (1, scaled conditions) of a specimen, theta its own (fast) parameters, unconstrained.

    Attributes:
        law: f, with the names and units of its parameters.
        weights: (components,) shares of the specimens; sums to 1.
        coefficients: (components, 1 + conditions, fast), B.
        covariances: (components, fast, fast), C.
        noise: standard deviation of one measurement around the law (and what it misses), in the unit of y.
        shared: name -> unconstrained scalar of the parameters that are one value for all specimens.
        shared_errors: name -> standard error of these, unconstrained.
        outliers: which part of the measurements is wrong and how far off; None if none is. The noise is that of the
            others.
        error_model: how the noise follows the mean; ``noise`` is that of a typical reading.
        discrepancy: what the law misses, in all specimens and in each; None if nothing of the kind was found. It and
            outliers exclude each other.
        between: (fast, fast), the part of the covariance that lies between groups of specimens (batches, laboratories);
            None where groups are not known.
    """

    law: Law
    weights: Tensor
    coefficients: Tensor
    covariances: Tensor
    noise: float
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    shared_errors: Mapping[str, float] = field(default_factory=dict)
    outliers: Outliers | None = None
    error_model: ErrorModel = CONSTANT
    discrepancy: Discrepancy | None = None
    between: Tensor | None = None

    @staticmethod
    def gaussian(law: Law, coefficients: np.ndarray, covariance: np.ndarray, noise: float) -> Family:
        """Return the family of one Gaussian component: coefficients (1 + conditions, fast), covariance (fast, fast)."""
        mean, spread = (torch.from_numpy(np.array(part, dtype=float))[None] for part in (coefficients, covariance))
        return Family(law, torch.ones(1, dtype=torch.float64), mean, spread, noise)

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of the mixture as arrays, one or more."""
        parts = zip(self.weights.tolist(), self.coefficients.numpy(), self.covariances.numpy(), strict=True)
        return tuple(Component(*part) for part in parts)

    @property
    def pooled(self) -> Component:
        """All components together as one Gaussian with their mean and covariance, at the conditions' centre."""
        coefficients = torch.einsum("k,krf->rf", self.weights, self.coefficients)
        apart = self.coefficients[:, 0] - coefficients[0]
        covariance = torch.einsum("k,kfg->fg", self.weights, self.covariances + apart[:, :, None] * apart[:, None])
        return Component(1.0, coefficients.numpy(), covariance.numpy())

    def population(self, design: Tensor) -> Mixture:
        """Return the mixture from which specimens of this design, (specimens, 1 + conditions), are drawn."""
        return Mixture(self.weights.log(), torch.einsum("sr,krf->skf", design, self.coefficients), self.covariances)

    def parameters(self, u: Tensor) -> dict[str, Tensor]:
        """Return name -> (...) unconstrained parameters, the shared ones included, of fast ones u: (..., fast)."""
        named = dict(zip(self.law.fast, u.unbind(-1), strict=True))
        named |= {name: value.expand(u.shape[:-1]) for name, value in self.shared.items()}
        return {name: named[name] for name in self.law.names}

    def curve(self, u: Tensor, x: Tensor) -> Tensor:
        """Return what is predicted at fast parameters u (..., fast): (..., points) at x, which broadcasts."""
        return self.law.curve(self.parameters(u), x)

    def linearized(self, u: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is predicted at u, (specimens, fast), and its derivatives, each (specimens, points)."""
        return self.law.linearized(self.parameters(u), x)

    @property
    def plain(self) -> bool:
        """True if the readings scatter evenly around the law itself."""
        return self.error_model.constant and self.discrepancy is None

    def points(self, data: Measured) -> Points:
        """Return the measurements with the noise of a typical reading; see :meth:`seen`."""
        return data.points(self.noise)

    def inverse_sd(self, points: Points, curves: Tensor) -> Tensor:
        """Return 1 / standard deviation of every reading where the means are curves (..., points), of their shape.

        Args:
            points: the measurements, with the noise of a typical reading.
            curves: (specimens, points) or (specimens, nodes, points).
        """
        inverse_sd, own = points.inverse_sd, points.own
        if curves.dim() == 3:
            inverse_sd, own = inverse_sd[:, None], own[:, None]
        if self.error_model.constant:
            return inverse_sd
        return torch.where(own, inverse_sd / self.error_model.relative_sd(curves), inverse_sd)

    def seen(self, points: Points, u: Tensor) -> Points:
        """Return the measurements as they are believed where each specimen's parameters are about u (specimens, fast).

        The noise is that of the means there. What the law misses is linear around u: its expectation is taken off y,
        its change with the parameters is the tilt, and its covariance joins the noise's.
        """
        if self.plain:
            return points
        if self.discrepancy is None:
            curves = self.law.curve(self.parameters(u), points.x)
            return points._replace(inverse_sd=self.inverse_sd(points, curves))
        moves = _DIFFERENCE * torch.eye(1 + u.shape[-1], u.shape[-1], dtype=u.dtype).roll(1, 0)  # none, then each
        columns, f = self.departed(u + moves[:, None], points.x)
        inverse_sd = self.inverse_sd(points, f[0])
        mean = columns @ self.discrepancy.mean_
        tilt = ((mean[1:] - mean[0]) / _DIFFERENCE).movedim(0, -1)
        y = points.y - mean[0] + (tilt @ u[..., None])[..., 0]
        scaled = (columns[0] @ self.discrepancy.root) * inverse_sd[..., None]
        size = scaled.shape[-2]
        factor = torch.linalg.cholesky(torch.eye(size, dtype=scaled.dtype) + scaled @ scaled.mT)
        whitening = torch.linalg.solve_triangular(factor, torch.diag_embed(inverse_sd), upper=False)
        return Points(points.x, y, whitening, points.own, tilt)

    def given(self, nodes: Tensor, points: Points) -> GivenParameters:
        """Return what the measurements say of the discrepancy, the parameters being nodes (specimens, nodes, fast)."""
        assert self.discrepancy is not None  # or there is nothing to say of it
        columns, f = self.departed(nodes, points.x[:, None])
        return self.discrepancy.given(columns, points.y[:, None] - f, self.inverse_sd(points, f).expand(f.shape))

    def departed(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of the discrepancy (..., points, columns) and the law (..., points) at u (..., fast)."""
        assert self.discrepancy is not None  # or there are no columns
        place = self.discrepancy.place(self.law, self.parameters(u), x)
        return self.discrepancy.columns(place).nan_to_num(), place.f


def check_family(family: Family, conditions: int) -> None:
    """Raise ValueError for shapes that do not fit the law and for numbers that no family has.

    Args:
        family: as built by a user or read from a file.
        conditions: how many move its means.
    """
    where, law, shape = f"prior of law {family.law.name}", family.law, (1 + conditions, len(family.law.fast))
    for i, (weight, coefficients, covariance) in enumerate(family.components):
        name = where if len(family.weights) == 1 else f"{where}: component {i + 1}"
        for what, value, expected in (
            ("coefficients", coefficients, shape),
            ("covariance", covariance, (shape[1], shape[1])),
        ):
            if value.shape != expected:
                raise ValueError(f"{name}: {what} has shape {value.shape}; expected {expected}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: {what} is not finite")
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"{name} needs a weight between 0 and 1; it is {weight}")
        if not positive_definite(covariance):
            raise ValueError(f"{name}: the covariance is not positive definite")
    if abs(float(family.weights.sum()) - 1.0) > 1e-6:
        raise ValueError(f"{where}: the components' weights do not add up to 1")
    if not (np.isfinite(family.noise) and family.noise > 0):
        raise ValueError(f"{where}: noise must be positive; got {family.noise}")
    missing = set(law.names) - set(law.fast) - set(family.shared)
    if missing:
        raise ValueError(f"{where}: no value for the shared {', '.join(sorted(missing))}")
    if family.outliers is not None:
        _check_outliers(where, family.outliers, family.discrepancy)


def _check_outliers(where: str, outliers: Outliers, discrepancy: Discrepancy | None) -> None:
    share, shift, spread = outliers
    if not (0.0 < share < 1.0 and 0.0 <= shift < np.inf and 0.0 < spread < np.inf):
        raise ValueError(
            f"{where}: outliers need a share between 0 and 1, a shift of 0 or more and a positive spread; got "
            f"{outliers}"
        )
    if discrepancy is not None:
        raise ValueError(f"{where}: outliers and a discrepancy exclude each other; drop one")

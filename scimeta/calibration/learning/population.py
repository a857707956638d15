"""The state of the learning of a prior: what the past holds, and the population that is believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured, Points
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.misfit import Misfit
from scimeta.calibration.family.mixture import Mixture
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.posterior.posterior import Posterior


class Modes(NamedTuple):
    """The kinds of specimens in a population.

    Attributes:
        shares: (modes,) of the specimens; sums to 1.
        coefficients: (modes, 1 + conditions, fast).
        covariances: (modes, fast, fast).
    """

    shares: Tensor
    coefficients: Tensor
    covariances: Tensor

    def prior(self, design: Tensor) -> Mixture:
        """Return what is expected of specimens with this design: (specimens, 1 + conditions)."""
        return Mixture(self.shares.log(), torch.einsum("sr,mrf->smf", design, self.coefficients), self.covariances)


class Population(NamedTuple):
    """The state of the iteration; attributes as in Prior."""

    modes: Modes
    noise: float
    shared: dict[str, Tensor]
    errors: dict[str, float]  # standard errors of the shared parameters
    misfit: Misfit | None = None
    outliers: Outliers | None = None
    discrepancy: Discrepancy | None = None
    hold_means: bool = False  # only the spreads are learned

    def points(self, past: Past) -> Points:
        """Return the measurements, whitened by what the law is not trusted with."""
        points = past.data.points(self.noise)
        return points if self.discrepancy is None else self.discrepancy.absorbed(points)

    def law(self, past: Past) -> Law:
        """Return the law as it stands, with the misfit if one is believed."""
        return past.law if self.misfit is None else self.misfit.corrected(past.law)

    def prior(self, past: Past) -> Mixture:
        """Return what is expected of the past specimens."""
        return self.modes.prior(past.design)


class Past(NamedTuple):
    """What the iteration rests on."""

    law: Law
    data: Measured
    design: Tensor  # (specimens, 1 + conditions)

    @property
    def free(self) -> Tensor:
        """(specimens, points) bool: measurements from which the noise is learned."""
        return self.data.mask & ~self.data.given

    def some(self, rows: Tensor) -> Past:
        """Return the past of some specimens."""
        return Past(self.law, Measured(*(part[rows] for part in self.data)), self.design[rows])


def regressed(design: Tensor, values: Tensor) -> Tensor:
    """Return the coefficients (..., regressors, values) of least squares, the shortest where they are not unique.

    By the normal equations, which scaled conditions leave well enough; ``torch.linalg.lstsq`` does not always give the
    same last digit to the same numbers.

    Args:
        design: (..., specimens, regressors).
        values: (..., specimens, values).
    """
    return torch.linalg.pinv(design.mT @ design, hermitian=True) @ (design.mT @ values)


def curves_at(law: Law, u: Tensor, shared: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the curves at fast parameters u: (..., fast)."""
    params = {name: u[..., i] for i, name in enumerate(law.fast)}
    return law.curve(params | {name: value.expand(u.shape[:-1]) for name, value in shared.items()}, x)


def linearized(past: Past, population: Population, found: Posterior, law: Law) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the law and its derivatives at every specimen's mode, each (specimens, points)."""
    params = {name: found.mode[:, i] for i, name in enumerate(law.fast)}
    params |= {name: value.expand(len(found.mode)) for name, value in population.shared.items()}
    return law.linearized({name: params[name] for name in law.names}, past.data.x)


def node_residuals(past: Past, population: Population, found: Posterior) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and (specimens, nodes, points) residuals at the nodes, a chunk of specimens at a time."""
    law, data = population.law(past), past.data
    for rows in torch.arange(len(data.x)).split(64):
        yield rows, curves_at(law, found.nodes[rows], population.shared, data.x[rows, None]) - data.y[rows, None]


def change(before: Population, after: Population) -> float:
    """Return the largest change, in standard deviations of the population."""
    parts = [abs(after.noise / before.noise - 1.0), float((after.modes.shares - before.modes.shares).abs().max())]
    for b0, b1, c0, c1 in zip(*before.modes[1:2], *after.modes[1:2], *before.modes[2:], *after.modes[2:], strict=True):
        sd, new = c0.diagonal().sqrt(), c1.diagonal().sqrt()
        correlation = c0 / sd.outer(sd) - c1 / new.outer(new)
        parts += [float(p.abs().max()) for p in ((b1 - b0) / sd, new / sd - 1.0, correlation)]
    parts += [abs(float(after.shared[name] - v)) / max(after.errors[name], 1e-300) for name, v in before.shared.items()]
    if after.misfit is not None and before.misfit is not None:
        parts.append(float(np.abs(after.misfit.values - before.misfit.values).max()) / after.noise)
    if after.outliers is not None and before.outliers is not None:
        parts.append(abs(after.outliers.share - before.outliers.share))
        moved = zip(after.outliers[1:], before.outliers[1:], strict=True)
        parts += [abs(new - old) / after.outliers.sd for new, old in moved]
    if after.discrepancy is not None and before.discrepancy is not None:
        for old, new in zip(
            *((d.mean, np.sqrt(d.variance)) for d in (before.discrepancy, after.discrepancy)), strict=True
        ):
            parts.append(0.1 * float(np.abs(new - old).max()) / after.noise)  # one that vanishes does so slowly
    return max(parts)

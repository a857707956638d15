"""The past that a family is learned from, and how far two families are apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.family import Family
from scimeta.calibration.posterior.posterior import Posterior


class Past(NamedTuple):
    """The past specimens that a family is learned from."""

    data: Measured
    design: Tensor  # (specimens, 1 + conditions)
    group: Tensor | None = None  # (specimens,) index of the group; None where groups are not known

    @property
    def free(self) -> Tensor:
        """(specimens, points) bool: measurements from which the noise is learned."""
        return self.data.mask & ~self.data.given

    def some(self, rows: Tensor) -> Past:
        """Return the past of some specimens."""
        group = None if self.group is None else self.group[rows]
        return Past(Measured(*(part[rows] for part in self.data)), self.design[rows], group)


def regressed(design: Tensor, values: Tensor) -> Tensor:
    """Return the coefficients (..., regressors, values) of least squares, the shortest where they are not unique.

    By the normal equations, which scaled conditions leave well enough; ``torch.linalg.lstsq`` does not always give the
    same last digit to the same numbers.

    Args:
        design: (..., specimens, regressors).
        values: (..., specimens, values).
    """
    return torch.linalg.pinv(design.mT @ design, hermitian=True) @ (design.mT @ values)


def node_residuals(past: Past, family: Family, found: Posterior) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rows, residuals at the nodes and their relative standard deviation, a chunk of specimens at a time.

    Both are (specimens, nodes, points); the latter is 1 for a typical reading.
    """
    data = past.data
    for rows in torch.arange(len(data.x)).split(64):
        curves = family.curve(found.nodes[rows], data.x[rows, None])
        yield rows, curves - data.y[rows, None], family.error_model.relative_sd(curves)


def change(before: Family, after: Family) -> float:
    """Return the largest change, in standard deviations of the population."""
    parts = [abs(after.noise / before.noise - 1.0), float((after.weights - before.weights).abs().max())]
    old, new = (
        zip(before.coefficients, before.covariances, strict=True),
        zip(after.coefficients, after.covariances, strict=True),
    )
    for (b0, c0), (b1, c1) in zip(old, new, strict=True):
        sd0, sd1 = c0.diagonal().sqrt(), c1.diagonal().sqrt()
        correlation = c0 / sd0.outer(sd0) - c1 / sd1.outer(sd1)
        parts += [float(p.abs().max()) for p in ((b1 - b0) / sd0, sd1 / sd0 - 1.0, correlation)]
    parts += [
        abs(float(after.shared[name] - v)) / max(after.shared_errors[name], 1e-300) for name, v in before.shared.items()
    ]
    if after.outliers is not None and before.outliers is not None:
        parts.append(abs(after.outliers.share - before.outliers.share))
        moved = zip(after.outliers[1:], before.outliers[1:], strict=True)
        parts += [abs(new - old) / after.outliers.sd for new, old in moved]
    return max(parts)

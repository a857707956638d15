"""Measurements of a batch of specimens, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve, joined


class Points(NamedTuple):
    """Measurements of a batch of specimens, padded to one length.

    Attributes:
        x: (specimens, points); padding repeats a valid abscissa.
        y: (specimens, points).
        inverse_sd: (specimens, points), 1 / standard deviation of each measurement; 0 for padding. Where the errors of
            a specimen's points depend on each other, (specimens, points, points): the inverse Cholesky factor of their
            covariance.
        own: (specimens, points) bool, True where the standard deviation is that of the family's noise, not the
            reading's own.
        tilt: (specimens, points, fast) what is added to the law's derivatives by the parameters, and times them to the
            law; (specimens, 0, 0) where nothing is.
    """

    x: Tensor
    y: Tensor
    inverse_sd: Tensor
    own: Tensor
    tilt: Tensor

    @staticmethod
    def plain(x: Tensor, y: Tensor, inverse_sd: Tensor) -> Points:
        """Return measurements of known standard deviations; each (specimens, points)."""
        return Points(x, y, inverse_sd, torch.zeros_like(x, dtype=torch.bool), x.new_zeros(len(x), 0, 0))

    def rows(self, rows: Tensor | slice) -> Points:
        """Return the measurements of some specimens."""
        return Points(*(part[rows] for part in self))

    def tilted(self, curves: Tensor, nodes: Tensor) -> Tensor:
        """Return curves (specimens, nodes, points) at nodes (specimens, nodes, fast) with the tilt."""
        return curves if not self.tilt.shape[1] else curves + nodes @ self.tilt.mT

    @property
    def scale(self) -> Tensor:
        """(specimens, points): what the inverse factors have on their diagonals; 0 for padding."""
        return self.inverse_sd if self.inverse_sd.dim() == 2 else self.inverse_sd.diagonal(dim1=-2, dim2=-1)

    def whitened(self, values: Tensor) -> Tensor:
        """Return residuals in units of their standard deviation: (specimens, points) or (specimens, any, points)."""
        if self.inverse_sd.dim() == 2:
            return values * (self.inverse_sd if values.dim() == 2 else self.inverse_sd[:, None])
        return (values[:, None] @ self.inverse_sd.mT)[:, 0] if values.dim() == 2 else values @ self.inverse_sd.mT

    def precision(self, values: Tensor) -> Tensor:
        """Return residuals, (specimens, any, points), times the inverse of their covariance."""
        white = self.whitened(values)
        return white * self.inverse_sd[:, None] if self.inverse_sd.dim() == 2 else white @ self.inverse_sd


class Measured(NamedTuple):
    """The measurements of a batch of specimens as they came, padded to one length.

    Attributes:
        x, y: (specimens, points).
        sigma: (specimens, points) standard deviation of each measurement; nan where none was given.
        mask: (specimens, points) bool, False at padding.
    """

    x: Tensor
    y: Tensor
    sigma: Tensor
    mask: Tensor

    @property
    def given(self) -> Tensor:
        """(specimens, points) bool: measurements that brought their own sigma."""
        return torch.isfinite(self.sigma) & self.mask

    def points(self, noise: float) -> Points:
        """Return the measurements, those without a sigma with this standard deviation."""
        sd = torch.where(self.given, self.sigma, noise)
        inverse_sd = torch.where(self.mask, 1.0 / sd, 0.0)
        return Points(self.x, self.y, inverse_sd, self.mask & ~self.given, self.x.new_zeros(len(self.x), 0, 0))


def pad(curves: Sequence[Curve]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the curves as four tensors of one shape, short curves filled up with their last point.

    Args:
        curves: at least one.
    Returns: x, y and sigma, float64, and the mask, bool: each (specimens, points). The mask is False at the filling;
        sigma is NaN there and wherever it is not known.

    >>> x, y, sigma, mask = pad([Curve("A", [1, 2], [0.1, 0.4]), Curve("B", [1], [0.2])])
    >>> x.tolist(), mask.tolist()
    ([[1.0, 2.0], [1.0, 1.0]], [[True, True], [True, False]])
    """
    if not len(curves):
        raise ValueError("there are no curves; at least one is needed")
    sizes = np.array([len(curve) for curve in curves])
    step = np.arange(sizes.max())
    mask = step < sizes[:, None]  # (specimens, points)
    index = (np.cumsum(sizes) - sizes)[:, None] + np.minimum(step, sizes[:, None] - 1)
    x, y, sigma = (values[index] for values in joined(curves))
    sigma[~mask] = np.nan
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(sigma), torch.from_numpy(mask)

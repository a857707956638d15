"""How the scatter of a measurement follows the mean: constant, proportional, combined, a power."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Kind = Literal["constant", "proportional", "combined", "power"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST = 1e-2  # of the typical reading: a mean below counts as so large where the scatter grows with it


class ErrorModel(NamedTuple):
    """The variance of a measurement around the mean f, relative to that of a typical one.

        sd(f)^2 = noise^2 [share + (1 - share) (max(|f|, least) / typical)^(2 power)]

    Attributes:
        kind: "constant" (share 1), "proportional" (share 0, power 1), "combined" (power 1) or "power" (share 0).
        share: of the variance of a typical reading that does not depend on the mean, 0 to 1.
        power: with which the rest grows.
        typical: root mean square of the means that it was learned from, in the unit of y: there sd(f) is the noise.
        least: mean below which the scatter shrinks no further, in the unit of y.

    >>> ErrorModel("proportional", 0.0, 1.0, 2.0).relative_variance(torch.tensor([1.0, 2.0]))
    tensor([0.2500, 1.0000])
    """

    kind: Kind = "constant"
    share: float = 1.0
    power: float = 0.0
    typical: float = 1.0
    least: float = 0.0

    @property
    def constant(self) -> bool:
        """True if the scatter does not depend on the mean."""
        return self.kind == "constant"

    def relative_variance(self, mean: Tensor) -> Tensor:
        """Return the variance at these means over the noise squared, of their shape."""
        if self.constant:
            return torch.ones_like(mean)
        grown = (mean.abs().clamp(min=self.least) / self.typical) ** (2.0 * self.power)
        return self.share + (1.0 - self.share) * grown

    def relative_sd(self, mean: Tensor) -> Tensor:
        """Return the standard deviation at these means over the noise, of their shape."""
        return self.relative_variance(mean).sqrt()


CONSTANT = ErrorModel()

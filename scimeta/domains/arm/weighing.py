"""What a trial says of its payload: mass and centre of mass with intervals, as a table and as a plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from scimeta.domains.arm.consistency import consistent
from scimeta.domains.arm.residuals import Residual

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PayloadPrior(NamedTuple):
    """What a payload can be, before it is weighed: mean (10,) and covariance (10, 10) of its inertial parameters."""

    mean: Tensor
    covariance: Tensor


class Weighing(NamedTuple):
    """What one trial, or many, say of the payload.

    Attributes:
        parameters: (..., 10) inertial parameters in the last link's frame.
        covariance: (..., 10, 10) of their errors.
        condition: (...,) condition number of the payload's regressor, its columns scaled by 2 kg, .2 kg m, .02 kg m^2.
        misses: (trials,) sorted: by how many standard deviations the masses of trials kept back from the training were
            missed. Intervals are as wide as those trials needed them; without them (None), Gaussian.
        residual: of the torques left over, where they were tested: the standard deviations and intervals of trials
            whose residual is far above its noise are withheld, nan.
    """

    parameters: Tensor
    covariance: Tensor
    condition: Tensor
    misses: Tensor | None = None
    residual: Residual | None = None

    @property
    def mass(self) -> Tensor:
        """(...,) kg."""
        return self.parameters[..., 0]

    @property
    def mass_sd(self) -> Tensor:
        """(...,) standard deviation of the mass, kg; nan where withheld."""
        return self._unless_withheld(self.covariance[..., 0, 0].sqrt())

    @property
    def com(self) -> Tensor:
        """(..., 3) centre of mass in the last link's frame, m."""
        return self.parameters[..., 1:4] / self.mass[..., None]

    @property
    def com_sd(self) -> Tensor:
        """(..., 3) standard deviation of the centre of mass, m, to first order; nan where withheld."""
        one = torch.eye(3, dtype=self.parameters.dtype, device=self.parameters.device)
        slope = torch.cat((-self.com[..., None], one.expand(*self.com.shape, 3)), -1) / self.mass[..., None, None]
        sd = ((slope @ self.covariance[..., :4, :4]) * slope).sum(-1).sqrt()
        return self._unless_withheld(sd.movedim(-1, 0)).movedim(0, -1)

    @property
    def withheld(self) -> Tensor:
        """(...,) bool, whether the residual is far above its noise, so that no interval can be defended."""
        return torch.zeros_like(self.mass, dtype=torch.bool) if self.residual is None else self.residual.above

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper bound (...,) of the mass, kg, that hold in a share `level` of trials.

        Reference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, J. American Statistical Association 113, 1094 (2018):
            split conformal intervals, where trials were kept back.
        """
        half = self._half_width(level) * self.mass_sd
        return self.mass - half, self.mass + half

    def com_interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper bound (..., 3) of the centre of mass, m; Gaussian, as wide as the masses needed."""
        half = self._half_width(level) * self.com_sd
        return self.com - half, self.com + half

    def made_consistent(self) -> Weighing:
        """The nearest parameters, in standard deviations, that a body can have; the rest as it is.

        Mass and centre of mass hardly change; moments of inertia that the trial did not show may.
        """
        return self._replace(parameters=consistent(self.parameters, self.covariance))

    def _unless_withheld(self, values: Tensor) -> Tensor:
        return torch.where(self.withheld, torch.nan, values)

    def _half_width(self, level: float) -> float:
        """In standard deviations."""
        if not 0 < level < 1:
            raise ValueError(f"interval: level is between 0 and 1; got {level}")
        gaussian = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
        if self.misses is None or not len(self.misses):
            return gaussian
        rank = math.ceil((len(self.misses) + 1) * level)
        # Beyond what the trials kept back can say, the Gaussian's tail is drawn on from the widest of them.
        return self.misses[rank - 1].item() if rank <= len(self.misses) else max(gaussian, self.misses[-1].item())

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One row a trial: mass and centre of mass with their intervals, kg and m, condition number and residual."""
        lower, upper = self.interval(level)
        columns = {"mass": self.mass, "mass_lower": lower, "mass_upper": upper}
        low, high = self.com_interval(level)
        for axis, name in enumerate("xyz"):
            columns |= {f"com_{name}": self.com[..., axis]}
            columns |= {f"com_{name}_lower": low[..., axis], f"com_{name}_upper": high[..., axis]}
        columns["condition"] = self.condition
        columns["residual"] = torch.full_like(self.mass, torch.nan) if self.residual is None else self.residual.size
        return pd.DataFrame({name: values.detach().reshape(-1).numpy() for name, values in columns.items()})

    def __str__(self) -> str:
        table = self.to_frame()
        half = (table["mass_upper"] - table["mass_lower"]) / 2
        withheld = self.withheld.reshape(-1).tolist()
        lines = [f"{'trial':>5}  {'mass [kg], 90 % interval':<34}{'centre of mass [mm]':<30}condition"]
        for trial, (_, row) in enumerate(table.head(20).iterrows()):
            mass = f"{row['mass']:.4f} +- {half[trial]:.4f}  [{row['mass_lower']:.4f}, {row['mass_upper']:.4f}]"
            if withheld[trial]:
                mass = f"{row['mass']:.4f}  withheld: residual {row['residual']:.3g}x"
            com = "  ".join(f"{1e3 * row[f'com_{name}']:7.1f}" for name in "xyz")
            lines.append(f"{trial:>5}  {mass:<34}{com:<30}{row['condition']:.0f}")
        if len(table) > 20:
            lines.append(f"... and {len(table) - 20} more")
        if any(withheld):
            lines.append("withheld: the torques left over are so many times their noise; the model does not fit")
        return "\n".join(lines)

    def plot(self, truth: Tensor | None = None, ax: Axes | None = None, level: float = 0.9) -> Axes:
        """Masses with their intervals, one below the other, beside the truth (...,) kg where it is known."""
        import matplotlib.pyplot as plt

        ax = ax or plt.figure(figsize=(6, 4), layout="constrained").gca()
        table = self.to_frame(level)
        middle = table["mass"].to_numpy() if truth is None else torch.as_tensor(truth).reshape(-1).numpy()
        errors = 1e3 * (table[["mass_lower", "mass", "mass_upper"]].to_numpy() - middle[:, None])
        width = [errors[:, 1] - errors[:, 0], errors[:, 2] - errors[:, 1]]
        ax.errorbar(middle, errors[:, 1], yerr=width, fmt="o", markersize=3, linewidth=1, label=f"{level:.0%} interval")
        ax.axhline(0.0, color="0.6", linewidth=0.8)
        ax.set(xlabel="mass [kg]" if truth is None else "true mass [kg]")
        ax.set_ylabel("interval about it [g]" if truth is None else "inferred less true mass [g]")
        ax.legend(frameon=False)
        return ax

"""The text and the picture of one fit, from numbers that were worked out before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.draws import Draws, PosteriorDraws
from scimeta.calibration.intervals import Band, Estimate
from scimeta.calibration.laws.law import Law
from scimeta.plots import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 10  # specimens; more names than this hide what they explain
_PLACES = 60  # in x, over which the share of the discrepancy is taken
_SURPRISING = 0.01  # probability below which the report asks whether the specimen is one of the family


class Report(NamedTuple):
    """All that a printed fit shows.

    Attributes:
        title: law, specimen, points and source.
        estimates: of the parameters, in order.
        shares: True to show how far data and prior informed each.
        correlation: (parameters, parameters); None where there is none.
        lines: sentences below the table.
        converged: True if the solve reached its solution.
        reason: why there are no intervals; "" where there are.
    """

    title: str
    estimates: Sequence[Estimate]
    shares: bool
    correlation: np.ndarray | None
    lines: Sequence[str]
    converged: bool
    reason: str

    def __str__(self) -> str:
        lines = [self.title, "", *self._table(), "", *self._correlations(), *self.lines]
        lines.append("solve: converged" if self.converged else "solve: NOT CONVERGED; the values are where it stopped")
        return "\n".join(lines + ([f"no intervals: {self.reason}"] if self.reason else []))

    def _table(self) -> list[str]:
        """Return the table of the parameters."""
        rows = [_row(estimate) for estimate in self.estimates]
        level = self.estimates[0].level
        header = ("parameter", "value", "std error", f"{level:.0%} interval", "unit", "data : prior")
        if not self.shares:
            header, rows = header[:-1], [row[:-1] for row in rows]
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows))
        return ["  ".join(cells).rstrip() for cells in padded]

    def _correlations(self) -> list[str]:
        """Return the correlations that matter, strongest first, as one line."""
        names, matrix = [estimate.name for estimate in self.estimates], self.correlation
        if matrix is None:
            return []
        pairs = [(matrix[i, j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
        strong = sorted((p for p in pairs if np.isfinite(p[0]) and abs(p[0]) >= 0.1), key=lambda p: -abs(p[0]))[:6]
        return [f"correlation: {', '.join(f'({b}, {a}) {r:+.2f}' for r, a, b in strong)}"] if strong else []


def _row(estimate: Estimate) -> tuple[str, ...]:
    interval = f"{estimate.interval}{', at its bound' if estimate.at_bound else ''}"
    share = (
        "-" if not np.isfinite(estimate.from_data) else (f"{estimate.from_data:4.0%} :{1 - estimate.from_data:4.0%}")
    )
    std = "-" if not np.isfinite(estimate.std) else f"{estimate.std:.2g}"
    return estimate.name, f"{estimate.value:.4g}", std, interval, estimate.unit, share


def points(curve: Curve) -> str:
    """Return how many points a specimen has, in words."""
    return f"{len(curve)} point{'' if len(curve) == 1 else 's'}"


def scatter(y: Axis, residuals: np.ndarray, curve: Curve, draws: Draws, *, learned: bool) -> str:
    """Return what the residuals are measured against; the noise is learned with the prior or from the residuals.

    Args:
        y: what was measured.
        residuals: (points,) measured minus expected.
        curve: the specimen.
        draws: of its fit, with the noise of a typical reading and how that follows the mean.
        learned: True if the noise comes with the prior.
    """
    unit, rms = f" {y.unit}" if y.unit else "", float(np.sqrt(np.mean(residuals**2)))
    noise, sigma = float(draws.noise[0]), curve.sigma
    if not np.isfinite(noise):
        return f"residual rms {rms:.3g}{unit}, no more points than parameters"
    if sigma is not None and np.isfinite(sigma).all():
        return f"residual rms {rms:.3g}{unit}, sigma given with the points"
    how, size = "of the prior" if learned else "from the residuals", f"{noise:.3g}"
    if isinstance(draws, PosteriorDraws) and not draws.family.error_model.constant:
        each = noise * draws.family.error_model.relative_sd(_predicted(draws, torch.tensor(curve.x)))
        size = " to ".join(dict.fromkeys(f"{float(end):.2g}" for end in (each.min(), each.max())))
        how += ", grows with the mean"
    return f"residual rms {rms:.3g}{unit}, noise sd {size}{unit} ({how})"


def _predicted(draws: PosteriorDraws, x: Tensor) -> Tensor:
    """Return (points,) the law of the first specimen, without what it misses, averaged over the posterior."""
    law = draws.family.law
    curves = law.curve(dict(zip(law.names, draws.nodes[0].unbind(-1), strict=True)), x)
    return (draws.weights[0, :, None] * curves).sum(0)


def surprise(p: float) -> str:
    """Return what a prior-predictive p-value says, as far as a closed form can tell."""
    if p >= _SURPRISING:
        return f"the points are such as the prior expects (p = {p:.2g}, chi-squared); fit.family simulates it"
    rare = f"the points are improbable under the prior (p = {p:.1g}, chi-squared)"
    return f"{rare}: check specimen, units and points; fit.family simulates it"


def bounds(estimates: Sequence[Estimate]) -> list[str]:
    """Return what is held at the end of its support, and what for that reason is of no consequence."""
    held = [e for e in estimates if e.at_bound]
    if not held:
        return []
    names = " and ".join(f"{e.name} = {e.value:.4g} {e.unit}".rstrip() for e in held)
    leave = f"{'it' if len(held) == 1 else 'they'} may leave {'it' if len(held) == 1 else 'them'}"
    lines = [f"at its bound: {names}; intervals by profiles of the likelihood, in which {leave}"]
    nowhere = [e.name for e in estimates if np.isnan(e.lower)]
    return lines + ([f"not determined then: {', '.join(nowhere)}"] if nowhere else [])


def notes(reasons: Sequence[str], estimates: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Return of each specimen why its intervals are withheld, or which of its parameters are at their bounds."""
    result = []
    for i, reason in enumerate(reasons):
        names = ", ".join(name for name, estimate in estimates.items() if estimate["at_bound"][i])
        result.append(reason or (f"at its bound: {names}" if names else ""))
    return result


def components(probabilities: np.ndarray | None) -> list[str]:
    """Return which mixture component the specimen is of, from (1, components); nothing where there is one."""
    if probabilities is None:
        return []
    chances = probabilities[0]
    ranked = ", ".join(f"{i + 1} ({_percent(chances[i])})" for i in np.argsort(-chances, kind="stable"))
    return [f"mixture component, as print(prior) counts them: {ranked}"]


def outliers(x: np.ndarray, chances: np.ndarray, axis: Axis) -> list[str]:
    """Return a line on each point that is probably an outlier."""
    places = (
        (f"{axis.name} = {place:.4g} {axis.unit}".rstrip(), chance) for place, chance in zip(x, chances, strict=True)
    )
    return [f"the point at {place} is probably an outlier ({_percent(c)})" for place, c in places if c > 0.5]


def _percent(chance: float) -> str:
    """Return a probability that never reads as certain."""
    return "> 99 %" if chance > 0.995 else "< 1 %" if chance < 0.005 else f"{100 * chance:.0f} %"


def discrepancy(draws: PosteriorDraws, x_range: tuple[float, float]) -> list[str]:
    """Return how much of the band is the law's discrepancy, over a range of x; nothing where the family has none."""
    if draws.family.discrepancy is None:
        return []
    law = draws.family.law
    share = float(draws.discrepancy_share(torch.linspace(*x_range, _PLACES, dtype=torch.float64))[0])
    where = f"{law.x.name} {x_range[0]:.4g} to {x_range[1]:.4g} {law.x.unit}".rstrip()
    return [f"model discrepancy: {100 * share:.0f} % of the variance behind the band, over {where}"]


def goodness(residuals: np.ndarray, curve: Curve, parameters: int) -> list[str]:
    """Return what a classical report says of the fit as a whole; nothing where no degree of freedom is left."""
    sigma, points, dof = curve.sigma, len(residuals), len(residuals) - parameters
    square = float(((residuals if sigma is None else residuals / sigma) ** 2).sum())
    variance = float(np.var(curve.y))
    if dof < 1 or square == 0.0 or variance == 0.0:
        return []
    misfit = points * np.log(square / points) if sigma is None else square  # -2 log likelihood, up to a constant
    return [
        f"chi-square {square:.4g}, reduced {square / dof:.4g} with {dof} degrees of freedom, "
        f"R2 {1 - float(np.mean(residuals**2)) / variance:.5f}, AIC {misfit + 2 * parameters:.2f}, "
        f"BIC {misfit + parameters * np.log(points):.2f}"
    ]


def draw(
    law: Law,
    curve: Curve,
    estimates: Sequence[Estimate],
    expected: tuple[np.ndarray, np.ndarray],
    alone: np.ndarray | None,
    band: Band | None,
    wrong: np.ndarray,
    ax: Axes | None,
) -> Axes:
    """Draw points, expected curve and band on the axes, or on new ones.

    Args:
        law: the fitted law.
        curve: the specimen.
        estimates: of the parameters, for the title.
        expected: x and y of the expected curve, (points,) each.
        alone: (points,) the law with these estimates, where the expected curve is corrected for what it misses.
        band: around it; None where intervals are withheld.
        wrong: (points,) bool, measurements that are probably outliers.
        ax: where to draw; new axes if None.
    """
    ax, (x, y) = axes(ax, law.x, law.y), expected
    if band is not None:
        ax.fill_between(x, band.lower, band.upper, color="C0", alpha=0.2, lw=0, label=f"{band.level:.0%} band")
    corrected = "" if alone is None else ", corrected for what it misses"
    ax.plot(x, y, color="C0", label=f"{law.name}{corrected}, expected")
    if alone is not None:
        ax.plot(x, alone, color="C0", ls=":", lw=1.2, label=law.name)
    error = None if curve.sigma is None else np.nan_to_num(curve.sigma)
    if len(curve):
        label = f"{curve.name}, measured"
        ax.errorbar(curve.x, curve.y, error, fmt="o", color="k", ms=5, capsize=2, label=label, zorder=3)
    if wrong.any():
        ax.plot(curve.x[wrong], curve.y[wrong], "o", color="C3", ms=5, label="probably outliers", zorder=4)
    ax.set_title("   ".join(str(e).split(" (")[0] for e in estimates), fontsize="medium")
    ax.legend(frameon=False)
    return ax


def reach(seen: np.ndarray, mean: Callable[[Tensor], np.ndarray]) -> float:
    """Return where a drawing ends: where the expected curve has stopped to change, at most six times the data.

    Args:
        seen: (points,) x of the measurements.
        mean: x (points,) -> (1, points), the expected curve.
    """
    last = float(seen.max())
    x = np.linspace(0.0, 6.0 * last, 400)[1:]
    y = mean(torch.from_numpy(x))[0]
    moving = np.abs(y - y[-1]) > 0.02 * max(np.ptp(y), 1e-300)
    return max(1.1 * last, float(x[moving][-1]) if moving.any() else last)


def draw_many(law: Law, curves: Sequence[Curve], x: np.ndarray, y: np.ndarray, ax: Axes | None) -> Axes:
    """Draw the points and the expected curve of every specimen; returns the axes.

    Args:
        law: the fitted law.
        curves: the specimens.
        x: (points,).
        y: (specimens, points), expected there.
        ax: where to draw; new axes if None.
    """
    ax, few = axes(ax, law.x, law.y), len(curves) <= _NAMED
    for i, (curve, expected) in enumerate(zip(curves, y, strict=True)):
        label = curve.name if few else None
        ax.plot(x, expected, color=f"C{i % 10}", lw=1.2, alpha=1.0 if few else 0.5, label=label)
        ax.plot(curve.x, curve.y, "o", color=f"C{i % 10}", ms=4)
    if few:
        ax.legend(frameon=False)
    return ax

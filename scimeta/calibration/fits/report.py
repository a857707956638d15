"""The text and the picture of one fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scimeta.calibration.family.ranges import outside
from scimeta.plots import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scimeta.calibration.fits.calibration import Calibration, Estimate


def text(fit: Calibration) -> str:
    """Return the report: parameters with intervals, what they rest on, correlations, residuals, warnings."""
    batch, curve = fit.batch, fit.curve
    rows = [_row(estimate) for estimate in fit.estimates.values()]
    header = ("parameter", "value", "std error", f"{batch.level:.0%} interval", "unit", "data : prior")
    if not batch.averaged:
        header, rows = header[:-1], [row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    points = "point" if len(curve.x) == 1 else "points"
    lines = [f"{fit.law.name} | {curve.name} | {len(curve.x)} {points} | {batch.source}", ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    lines += ["", *_correlations(fit), *_scatter(fit), *_belonging(fit), *([] if batch.averaged else _goodness(fit))]
    lines += [fit.family.sentence] if batch.prior is not None and len(curve) else []
    lines += [] if batch.prior is None else [str(one) for one in outside(batch.prior, curve.conditions, curve.x)]
    lines.append("solve: converged" if fit.converged else "solve: NOT CONVERGED; the values are where it stopped")
    if batch.reasons[0]:
        lines.append(f"no intervals: {batch.reasons[0]}")
    return "\n".join(lines)


def _row(estimate: Estimate) -> tuple[str, ...]:
    interval = "-" if not np.isfinite(estimate.lower) else f"{estimate.lower:.4g} to {estimate.upper:.4g}"
    share = (
        "-" if not np.isfinite(estimate.from_data) else (f"{estimate.from_data:4.0%} :{1 - estimate.from_data:4.0%}")
    )
    std = "-" if not np.isfinite(estimate.std) else f"{estimate.std:.2g}"
    return estimate.name, f"{estimate.value:.4g}", std, interval, estimate.unit, share


def _correlations(fit: Calibration) -> list[str]:
    """Return the correlations that matter, strongest first, as one line."""
    names = fit.law.names
    if fit.batch.nodes.shape[1] < 2:
        return []
    matrix = fit.correlation()
    pairs = [(matrix[i, j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    strong = sorted((p for p in pairs if np.isfinite(p[0]) and abs(p[0]) >= 0.1), key=lambda p: -abs(p[0]))[:6]
    return [f"correlation: {', '.join(f'({b}, {a}) {r:+.2f}' for r, a, b in strong)}"] if strong else []


def _scatter(fit: Calibration) -> list[str]:
    """Return what the residuals are measured against."""
    y = fit.law.y
    unit = f" {y.unit}" if y.unit else ""
    if not len(fit.curve):
        return ["not measured: this is what the prior expects under its conditions"]
    rms = float(np.sqrt(np.mean(fit.residuals() ** 2)))
    if not np.isfinite(fit.batch.noise[0]):
        return [f"residual rms {rms:.3g}{unit}, no more points than parameters"]
    if fit.curve.sigma is not None and np.isfinite(fit.curve.sigma).all():
        noise = "sigma given with the points"
    else:
        how = "of the prior" if fit.batch.averaged else "from the residuals"
        noise = f"noise sd {fit.batch.noise[0]:.3g}{unit} ({how})"
    return [f"residual rms {rms:.3g}{unit}, {noise}", *_misfit(fit)]


def _belonging(fit: Calibration) -> list[str]:
    """Return which kind the specimen is of, where the prior has several, and which of its points are outliers."""
    lines = []
    if fit.batch.kinds is not None:
        chances = fit.batch.kinds[0]
        ranked = ", ".join(f"{i + 1} ({_percent(chances[i])})" for i in np.argsort(-chances, kind="stable"))
        lines.append(f"kind of specimen, as print(prior) counts them: {ranked}")
    x = fit.law.x
    for place, chance in zip(fit.curve.x, fit.outlier_probability(), strict=True):
        if chance > 0.5:
            where = f"{x.name} = {place:.4g} {x.unit}".rstrip()
            lines.append(f"the point at {where} is probably an outlier ({_percent(chance)})")
    return lines


def _percent(chance: float) -> str:
    """Return a probability that never reads as certain."""
    return "> 99 %" if chance > 0.995 else "< 1 %" if chance < 0.005 else f"{100 * chance:.0f} %"


def _misfit(fit: Calibration) -> list[str]:
    """Return how much of the band is the law's misfit."""
    found = fit.batch.discrepancy
    if found is None:
        return []
    share = float(fit.batch.misfit_share(np.linspace(found.knots[0], found.knots[-1], 60))[0])
    return [f"misfit of the law along {fit.law.x.name}: {share:.0%} of the variance behind the band"]


def _goodness(fit: Calibration) -> list[str]:
    """Return what a classical report says of the fit as a whole; nothing where no degree of freedom is left.

    Nothing either of one of several specimens that were fitted together: their degrees of freedom are common.
    """
    if fit.batch.joint:
        return []
    residuals, sigma, count = fit.residuals(), fit.curve.sigma, len(fit.law.names)
    points, dof = len(residuals), len(residuals) - count
    square = float(((residuals if sigma is None else residuals / sigma) ** 2).sum())
    variance = float(np.var(fit.curve.y))
    if dof < 1 or square == 0.0 or variance == 0.0:
        return []
    misfit = points * np.log(square / points) if sigma is None else square  # -2 log likelihood, up to a constant
    return [
        f"chi-square {square:.4g}, reduced {square / dof:.4g} with {dof} degrees of freedom, "
        f"R2 {1 - float(np.mean(residuals**2)) / variance:.5f}, AIC {misfit + 2 * count:.2f}, "
        f"BIC {misfit + count * np.log(points):.2f}"
    ]


def draw(fit: Calibration, ax: Axes | None) -> Axes:
    """Draw points, expected curve and band on the axes, or on new ones."""
    ax = axes(ax, fit.law.x, fit.law.y)
    batch, curve, level = fit.batch, fit.curve, fit.batch.level
    values = fit.estimates
    x = np.linspace(curve.x.min(initial=0.0), _reach(fit), 300)
    at = torch.from_numpy(x)
    if not fit.batch.reasons[0]:
        band = batch._band(at, level)
        ax.fill_between(x, band.lower[0], band.upper[0], color="C0", alpha=0.2, lw=0, label=f"{level:.0%} band")
    ax.plot(x, batch._mean(at)[0], color="C0", label=f"{fit.law.name}, expected")
    error = None if curve.sigma is None else np.nan_to_num(curve.sigma)
    if len(curve):
        label = f"{curve.name}, measured"
        ax.errorbar(curve.x, curve.y, error, fmt="o", color="k", ms=5, capsize=2, label=label, zorder=3)
    wrong = fit.outlier_probability() > 0.5
    if wrong.any():
        ax.plot(curve.x[wrong], curve.y[wrong], "o", color="C3", ms=5, label="probably outliers", zorder=4)
    ax.set_title("   ".join(str(e).split(" (")[0] for e in values.values()), fontsize="medium")
    ax.legend(frameon=False)
    return ax


def _reach(fit: Calibration) -> float:
    """Return where the drawing ends: where the expected curve has stopped to change, at most six times the data."""
    if not len(fit.curve):
        return fit.batch.prior.x_range[1]
    last = float(fit.curve.x.max())
    x = np.linspace(0.0, 6.0 * last, 400)[1:]
    y = fit.batch._mean(torch.from_numpy(x))[0]
    moving = np.abs(y - y[-1]) > 0.02 * max(np.ptp(y), 1e-300)
    return max(1.1 * last, float(x[moving][-1]) if moving.any() else last)

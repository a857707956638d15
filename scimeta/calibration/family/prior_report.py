"""The text and the picture of a prior."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scimeta.calibration.data.units import split_unit
from scimeta.calibration.family.conditions import condition_text
from scimeta.plots import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scimeta.calibration.family.discrepancy import Discrepancy
    from scimeta.calibration.family.prior import Prior
    from scimeta.calibration.laws.law import Law


def text(prior: Prior) -> str:
    """Return the report: where most specimens lie, kinds, correlations, conditions, noise, outliers, misfit."""
    frame = prior.to_frame()
    lines = [f"prior of law {prior.law.name}, {prior.origin}", ""]
    lines += [frame.drop(columns="shared").to_string(float_format=lambda v: f"{v:.4g}"), ""]
    lines.append(f"lower to upper holds 90 % of the specimens{_place(prior)}")
    lines += _kinds(prior)
    if frame.shared.any():
        lines.append(f"one value for all (with its 90 % interval): {', '.join(frame.index[frame.shared])}")
    lines += _correlations(prior)
    for name, row in prior.slopes().iterrows():
        moves = ", ".join(f"{parameter} {slope:+.3g}" for parameter, slope in row.items())
        lines.append(f"one more of {name} moves (unconstrained) {moves}")
    lines += _learned_at(prior)
    lines += _energies(prior)
    lines += _measurements(prior)
    if not prior.converged:
        lines.append("learning: NOT CONVERGED")
    return "\n".join(lines)


def _place(prior: Prior) -> str:
    """Return at which conditions the population is shown."""
    values = [condition_text(name, value) for name, value in zip(prior.conditions, prior.centre, strict=True)]
    return f" at {', '.join(values)}" if values else ""


def _learned_at(prior: Prior) -> list[str]:
    """Return a line on the ranges of the past, where conditions move the population."""
    ranges = [(*split_unit(name), *ends) for name, ends in prior.ranges.items()]
    ranges += [(*prior.law.x, *prior.x_range)] if ranges and prior.past else []
    texts = (f"{name} {lower:.4g} to {upper:.4g} {unit}".rstrip() for name, unit, lower, upper in ranges)
    return [f"learned at {', '.join(texts)}"] if ranges else []


def _kinds(prior: Prior) -> list[str]:
    """Return a line on each kind of specimens, if there are several."""
    lines = [f"{len(prior.modes)} kinds of specimens{_place(prior)}:"] if prior.modes else []
    for i, mode in enumerate(prior.modes):
        kind = replace(prior, modes=(), coefficients=mode.coefficients, covariance=mode.covariance, past={})
        rows = [row for row in kind.to_frame().itertuples() if not row.shared]
        ranges = (f"{r.Index} {r.median:.4g} ({r.lower:.4g} to {r.upper:.4g})" for r in rows)
        lines.append(f"  kind {i + 1}: {mode.share:.0%} with {', '.join(ranges)}")
    return lines


def _correlations(prior: Prior) -> list[str]:
    """Return the correlations of the parameters as one line; nothing of a single parameter."""
    sd, names = np.sqrt(np.diag(prior.covariance)), prior.law.fast
    matrix = prior.covariance / np.outer(sd, sd)
    pairs = [f"({a}, {b}) {matrix[i, j]:+.2f}" for i, a in enumerate(names) for j, b in enumerate(names) if i < j]
    return [f"correlation: {', '.join(pairs)}"] if pairs else []


def _energies(prior: Prior) -> list[str]:
    """Return a line on the activation energy of each rate, if the logarithms of rates are linear in 1/T."""
    lines = []
    for name in prior.law.fast:
        try:
            lines.append(str(prior.activation_energy(name)))
        except ValueError:  # no logarithm, or no 1/T
            continue
    return lines


def _measurements(prior: Prior) -> list[str]:
    """Return what is between a measurement and the law: noise, outliers, misfit."""
    unit = f" {prior.law.y.unit}" if prior.law.y.unit else ""
    noise = f"noise sd {prior.noise:.3g}{unit}"
    if prior.wander:
        noise += f", of which {prior.wander:.3g}{unit} is each specimen's own smooth departure from the law"
    lines = [noise]
    if prior.outliers is not None:
        share, shift, spread = prior.outliers
        off = f"shifted by {shift:.2g}{unit}, give or take {spread:.1g}"
        off = off if shift > spread else f"scattered by {prior.outliers.sd:.2g}{unit}"
        lines.append(f"outliers: about {100 * share:.2g} % of the points, {off}; the noise is that of the others")
    if prior.misfit is not None:
        size = float(np.abs(prior.misfit.values).max())
        lines.append(
            f"the law misses by up to {size:.2g}{unit} in the same way in all specimens; predictions correct for it"
        )
    if prior.discrepancy is not None:
        lines.append(_along_x(prior.discrepancy, prior.law))
    if prior.objective == "predictive":
        lines.append("means moved from the likelihood's to where held-out points of the past are predicted best")
    return lines


def _along_x(discrepancy: Discrepancy, law: Law) -> str:
    """Return one sentence: where the law misses most, by how much."""
    own = np.sqrt(discrepancy.variance)
    worst = int(np.argmax(discrepancy.mean**2 + discrepancy.variance))
    unit = f" {law.y.unit}" if law.y.unit else ""
    return (
        f"the law misses along {law.x.name}, most near {discrepancy.knots[worst]:.3g} {law.x.unit}".rstrip()
        + f": by {discrepancy.mean[worst]:+.2g}{unit} in all specimens and sd {own[worst]:.2g}{unit} in each"
    )


def draw(prior: Prior, ax: Axes | None) -> Axes:
    """Draw the population and the past specimens on the axes, or on new ones."""
    ax = axes(ax, prior.law.x, prior.law.y)
    x = np.linspace(min(0.0, prior.x_range[0]), prior.x_range[1], 200)
    names, rng = prior.law.names, np.random.default_rng(0)
    draws = prior.sample(2000, rng)
    u = prior.law.unconstrain({name: torch.tensor(draws[name].to_numpy()) for name in names})
    curves = prior.corrected_law.curve(u, torch.from_numpy(x)).numpy()
    for level, alpha in ((0.9, 0.15), (0.5, 0.25)):
        lower, upper = np.quantile(curves, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        ax.fill_between(x, lower, upper, color="C0", alpha=alpha, lw=0, label=f"{level:.0%} of specimens")
    shared = prior.shared_values()
    for i, row in enumerate(list(prior.past.values())[:60]):
        u = {**dict(zip(prior.law.fast, torch.from_numpy(np.asarray(row)), strict=True)), **shared}
        label = "past specimens" if i == 0 else None
        ax.plot(x, prior.corrected_law.curve(u, torch.from_numpy(x)), color="k", lw=0.5, alpha=0.4, label=label)
    ax.plot(x, np.median(curves, axis=0), color="C0", label="median")
    ax.set_title(f"{prior.law.name}: population{_place(prior)}, {prior.origin}", fontsize="medium")
    ax.legend(frameon=False)
    return ax

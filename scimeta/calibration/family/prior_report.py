"""The text, the table and the picture of a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

from scimeta.calibration.data.units import split_unit
from scimeta.calibration.family.conditions import condition_text
from scimeta.calibration.family.discrepancy import Discrepancy, Place
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Component, Family
from scimeta.calibration.family.mixture import degrees_of_freedom, tails
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.laws.law import Law
from scimeta.plots import axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def frame(family: Family, level: float) -> pd.DataFrame:
    """Return one row a parameter: median, lower, upper (holding ``level`` of the specimens at the centre), unit."""
    import pandas as pd

    shared = {n: stats.norm(float(v), family.shared_errors[n]).ppf for n, v in family.shared.items()}
    rows = {}
    for name, parameter in family.law.parameters.items():
        tail = 0.5 - 0.5 * level
        levels = (0.5, tail, 1.0 - tail)
        ends = _quantiles(family, family.law.fast.index(name), levels) if name not in shared else shared[name](levels)
        ends = family.law.constrain({name: torch.tensor(ends, dtype=torch.float64)})[name].tolist()
        rows[name] = (*ends, parameter.unit, parameter.shared)
    return pd.DataFrame.from_dict(rows, "index", columns=["median", "lower", "upper", "unit", "shared"])


def _quantiles(family: Family, parameter: int, levels: Sequence[float]) -> list[float]:
    """Return quantiles of one parameter, unconstrained, over all components at the conditions' centre."""
    parts = [
        (c.weight, c.coefficients[0, parameter], c.covariance[parameter, parameter] ** 0.5) for c in family.components
    ]
    if len(parts) == 1:
        return [parts[0][1] + float(special.ndtri(level)) * parts[0][2] for level in levels]
    lowest, highest = (f(mean + side * 9.0 * sd for _, mean, sd in parts) for f, side in ((min, -1), (max, 1)))

    def below(u: float, level: float) -> float:
        return sum(weight * special.ndtr((u - mean) / sd) for weight, mean, sd in parts) - level

    bracket = lowest, highest
    return [float(optimize.root_scalar(below, (level,), "brentq", bracket).root) for level in levels]


def text(
    family: Family,
    covariates: Covariates,
    learned: Learned | None,
    origin: str,
    slopes: pd.DataFrame,
    effects: pd.DataFrame,
    said: Sequence[str],
) -> str:
    """Return the report: where most specimens lie, components, correlations, conditions, what readings are, groups.

    Args:
        family, covariates, learned: of the prior.
        origin: where it comes from.
        slopes: change of each unconstrained parameter (columns) per unit of each condition (rows).
        effects: of the levels of conditions that are text, as of :func:`level_effects` at 90 %.
        said: further sentences, on activation energies and a short past.
    """
    table, place = frame(family, 0.9), _place(covariates)
    lines = [f"prior of law {family.law.name}, {origin}", ""]
    lines += [table.drop(columns="shared").to_string(float_format=lambda v: f"{v:.4g}"), ""]
    lines.append(f"lower to upper holds 90 % of the specimens{place}")
    lines += _components(family, place)
    if table.shared.any():
        lines.append(f"one value for all (with its 90 % interval): {', '.join(table.index[table.shared])}")
    lines += _correlations(family.pooled, family.law.fast)
    for name, row in slopes.drop(index=list(covariates.indicators)).iterrows():
        moves = ", ".join(f"{parameter} {slope:+.3g}" for parameter, slope in row.items())
        lines.append(f"effect per unit of {name} (unconstrained): {moves}")
    lines += _levels(effects)
    lines += [] if learned is None else _learned_at(family.law, covariates, learned)
    lines += [*said, *_measurements(family), *_groups(family, {} if learned is None else learned.groups)]
    lines += [] if learned is None else _left_out(learned.coverage)
    if learned is not None and learned.objective == "predictive":
        lines.append("means moved from the likelihood's to where held-out points of the past are predicted best")
    if learned is not None and not learned.converged:
        lines.append("learning: NOT CONVERGED")
    return "\n".join(lines)


def _place(covariates: Covariates) -> str:
    """Return at which conditions the population is shown."""
    values = [condition_text(name, value) for name, value in covariates.middle.items()]
    return f" at {', '.join(values)}" if values else ""


def _learned_at(law: Law, covariates: Covariates, learned: Learned) -> list[str]:
    """Return lines on the levels and ranges of the past, where conditions move the population."""
    texts = [
        f"{name} {', '.join(f'{level} ({_specimens(n)})' for level, n in levels.items())}"
        for name, levels in covariates.levels.items()
    ]
    ranges = [(*split_unit(name), *ends) for name, ends in covariates.ranges.items()]
    ranges += [(*law.x, *learned.x_range)] if ranges or texts else []
    texts += [f"{name} {lower:.4g} to {upper:.4g} {unit}".rstrip() for name, unit, lower, upper in ranges]
    lines = [f"learned at {', '.join(texts)}"] if texts else []
    return lines + [single_level(one) for one in covariates.single]


def single_level(level: str) -> str:
    """Return what is to be known of a level that one specimen alone is of."""
    return f"{level} rests on one specimen: what the level does cannot be told from what sets this specimen apart"


def _specimens(count: int) -> str:
    return f"{count} specimen{'' if count == 1 else 's'}"


_SIGN = {
    "factor": "{} x {}",
    "odds": "odds of {} x {}",
    "difference": "{} {}",
}


def _levels(effects: pd.DataFrame) -> list[str]:
    """Return a line on each level of a condition that is text, but the first."""
    moves: dict[tuple[str, str], list[str]] = {}
    for row in effects.to_dict("records"):
        form = "+.2g" if row["as"] == "difference" else ".3g"
        value, lower, upper = (format(row[end], form) for end in ("value", "lower", "upper"))
        interval = f" ({lower} to {upper})" if np.isfinite(row["lower"]) else ""
        key = f"{row['condition']} = {row['level']}", str(row["against"])
        moves.setdefault(key, []).append(_SIGN[row["as"]].format(row["parameter"], value) + interval)
    lines = [f"{level}: {', '.join(texts)} against {first}" for (level, first), texts in moves.items()]
    return [f"{line} (in brackets 90 % intervals)" if " to " in line else line for line in lines]


def short_past(count: float, regressors: int, fast: int, total: int) -> str:
    """Return a sentence on a spread that was learned from few specimens, as fits widen it.

    Args:
        count: specimens from which the spread was learned, of the component that has the fewest.
        regressors, fast: of the population, as for :func:`degrees_of_freedom`.
        total: specimens of all components.
    """
    dof, factor = (of(count, regressors, fast) for of in (degrees_of_freedom, tails))
    left = count - regressors - fast + 1.0
    few = f"{total} specimens" if count > total - 0.5 else f"{total} specimens, about {count:.0f} of one component"
    least = f", the least that is taken where they leave {max(left, 0.0):.2g}: intervals may still be too narrow"
    return (
        f"learned from {few}: little is known of their spread, so that fits expect a Gaussian of {factor:.3g} times "
        f"its variance, that of Student's t with {dof:.3g} degrees of freedom" + (least if left < dof else "")
    )


def _components(family: Family, place: str) -> list[str]:
    """Return a line on each component of the mixture, if there are several."""
    if len(family.weights) == 1:
        return []
    lines = [f"mixture of {len(family.weights)} components{place}:"]
    for i, (weight, coefficients, covariance) in enumerate(family.components):
        rows = _ranges(family, coefficients, covariance)
        lines.append(f"  component {i + 1}: {weight:.0%} with {', '.join(rows)}")
    return lines


def _ranges(family: Family, coefficients: np.ndarray, covariance: np.ndarray) -> list[str]:
    """Return the median and range of each fast parameter within one component."""
    z, texts = float(special.ndtri(0.95)), []
    for i, name in enumerate(family.law.fast):
        mean, sd = coefficients[0, i], covariance[i, i] ** 0.5
        ends = torch.tensor([mean, mean - z * sd, mean + z * sd], dtype=torch.float64)
        median, lower, upper = family.law.constrain({name: ends})[name].tolist()
        texts.append(f"{name} {median:.4g} ({lower:.4g} to {upper:.4g})")
    return texts


def _correlations(pooled: Component, names: Sequence[str]) -> list[str]:
    """Return the correlations of the parameters as one line; nothing of a single parameter."""
    sd = np.sqrt(np.diag(pooled.covariance))
    matrix = pooled.covariance / np.outer(sd, sd)
    pairs = [f"({a}, {b}) {matrix[i, j]:+.2f}" for i, a in enumerate(names) for j, b in enumerate(names) if i < j]
    return [f"correlation: {', '.join(pairs)}"] if pairs else []


def _measurements(family: Family) -> list[str]:
    """Return what is between a measurement and the law: noise, outliers, discrepancy."""
    unit = _unit(family.law.y.unit)
    lines = [f"noise sd {family.noise:.3g}{unit}{_growth(family.noise, family.error_model)}"]
    if family.outliers is not None:
        share, shift, spread = family.outliers
        off = f"shifted by {shift:.2g}{unit}, give or take {spread:.1g}"
        off = off if shift > spread else f"scattered by {family.outliers.sd:.2g}{unit}"
        lines.append(f"outliers: about {100 * share:.2g} % of the points, {off}; the noise is that of the others")
    if family.discrepancy is not None:
        lines += _discrepancy(family.discrepancy, family.law)
    return lines


def _growth(noise: float, model: ErrorModel) -> str:
    """Return how the noise follows the mean, to go on after its size; "" where it does not."""
    if model.constant:
        return ""
    typical, least = f" at a typical reading of {model.typical:.3g}", f"{model.least:.2g}"
    floor = f" (a mean below {least} counts as {least})" if model.least > 0.0 else ""
    if model.kind == "proportional":
        return f"{typical}, growing in proportion to the mean: {100 * noise / model.typical:.2g} %{floor}"
    if model.kind == "power":
        return f"{typical}, growing with the mean to the power {model.power:.2g}{floor}"
    constant, slope = noise * model.share**0.5, 100 * noise * (1.0 - model.share) ** 0.5 / model.typical
    return f"{typical}: {constant:.2g} plus {slope:.2g} % of the mean (variances add)"


def _discrepancy(found: Discrepancy, law: Law) -> list[str]:
    """Return a line on what the law misses: along each coordinate where most and by how much, and its late start."""
    begin, texts = 0, []
    for coordinate, knots in zip(found.coordinates, found.knots, strict=True):
        columns = slice(begin, begin + len(knots))
        texts.append(_part(found, coordinate == "prediction", knots, columns, law))
        begin += len(knots)
    texts += [_clock(found, law)] if found.start else []
    texts = [text for text in texts if text]
    return [f"model discrepancy: {'; '.join(texts)}"] if texts else []


def _part(found: Discrepancy, predicted: bool, knots: np.ndarray, columns: slice, law: Law) -> str:
    """Return what is missed along one coordinate, where the law is sensitive; "" where nothing is.

    Between the knots splines can be larger than at them: the curves are looked at in many places.
    """
    s = torch.from_numpy(np.interp(np.arange(20 * len(knots) - 19) / 20, np.arange(len(knots)), knots))
    x = s if predicted or not found.x_scale else found.x_scale * torch.expm1(s)
    sensitive, late = torch.full_like(s, 1e9 * found.size), torch.zeros_like(s) if found.start else None
    basis = found.columns(Place(x, s, sensitive, late)).numpy()[:, columns]
    mean = basis @ found.mean[columns]
    own, doubt = (
        np.sqrt(((basis @ part[columns, columns]) * basis).sum(-1).clip(min=0.0))
        for part in (found.covariance, found.mean_covariance)
    )
    texts, unit = [], _unit(law.y.unit)
    if mean.any():
        top = int(np.abs(mean).argmax())
        known = f" (known to {doubt[top]:.1g})" if doubt.any() else ""
        texts.append(f"common to all specimens up to {abs(mean[top]):.2g}{unit}{known}")
    elif doubt.any():
        texts.append(f"nothing common to all specimens (known to {doubt.max():.1g}{unit})")
    if own.any():
        texts.append(f"each specimen's own sd up to {own.max():.2g}{unit}")
    axis, place = (law.y, s) if predicted else (law.x, x)
    worst = float(place[int((mean**2 + doubt**2 + own**2).argmax())])
    return ", ".join([*texts, f"largest near {axis.name} = {worst:.2g}{_unit(axis.unit)}"]) if texts else ""


def _clock(found: Discrepancy, law: Law) -> str:
    """Return by how much the law's clock begins late; "" where it does not."""
    delay, variance = found.start * found.mean[-1], found.covariance[-1, -1]
    doubt, own = (found.start * part**0.5 for part in (found.mean_covariance[-1, -1], variance))
    if not (delay or doubt or own):
        return ""
    known = f"known to {doubt:.1g}" if doubt else ""
    each = f"sd {own:.2g}{_unit(law.x.unit)} in each" if own else ""
    inside = ", ".join(text for text in (known, each) if text)
    side = "late" if delay >= 0.0 else "early"
    return f"a clock that begins {abs(delay):.2g}{_unit(law.x.unit)} {side}" + (f" ({inside})" if inside else "")


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _groups(family: Family, groups: Mapping[str, str]) -> list[str]:
    """Return how far groups of specimens lie apart."""
    if family.between is None:
        return []
    law, mean, texts = family.law, family.pooled.coefficients[0], []
    for i, name in enumerate(law.fast):
        parameter, sd = law.parameters[name], float(family.between[i, i]) ** 0.5
        if parameter.support in ("positive", "unit"):
            texts.append(f"{'odds of ' * (parameter.support == 'unit')}{name} x {np.exp(sd):.2g} (1 sd)")
            continue
        if parameter.support == "softplus":
            sd = float(np.logaddexp(0.0, mean[i] + sd) - np.logaddexp(0.0, mean[i]))
        texts.append(f"{name} {sd:.2g}{_unit(parameter.unit)} (1 sd)")
    count = len(set(groups.values()))
    between = f"between {count} groups" if count else "between groups"
    return [f"{between}: {', '.join(texts)}, beside the sd within one"]


def _left_out(coverage: Mapping[str, float]) -> list[str]:
    """Return how much of each group the band held that was learned from the others."""
    shares = ", ".join(f"{group} {100 * share:.0f} %" for group, share in coverage.items())
    return [f"90 % bands held, each group left out in turn: {shares}"] if shares else []


def draw(
    family: Family,
    covariates: Covariates,
    past: Mapping[str, np.ndarray],
    x_range: tuple[float, float],
    origin: str,
    draws: pd.DataFrame,
    ax: Axes | None,
) -> Axes:
    """Draw the population and the past specimens on the axes, or on new ones.

    Args:
        family, covariates: of the prior.
        past: name -> (fast,) parameters of the past specimens.
        x_range: smallest and largest x among them.
        origin: where the prior comes from.
        draws: natural parameters of specimens of the population, one column each.
        ax: where to draw; new axes if None.
    """
    law = family.law
    ax, x = axes(ax, law.x, law.y), np.linspace(min(0.0, x_range[0]), x_range[1], 200)
    u = law.unconstrain({name: torch.tensor(draws[name].to_numpy()) for name in law.names})
    curves = _expected(family, u, torch.from_numpy(x)).numpy()
    for level, alpha in ((0.9, 0.15), (0.5, 0.25)):
        lower, upper = np.quantile(curves, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        ax.fill_between(x, lower, upper, color="C0", alpha=alpha, lw=0, label=f"{level:.0%} of specimens")
    for i, row in enumerate(list(past.values())[:60]):
        label = "past specimens" if i == 0 else None
        y = _expected(family, family.parameters(torch.from_numpy(np.asarray(row))[None]), torch.from_numpy(x))
        ax.plot(x, y[0], color="k", lw=0.5, alpha=0.4, label=label)
    ax.plot(x, np.median(curves, axis=0), color="C0", label="median")
    ax.set_title(f"{law.name}: population{_place(covariates)}, {origin}", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def _expected(family: Family, named: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the law with what it misses in all specimens, (specimens, points), at unconstrained parameters."""
    if family.discrepancy is None:
        return family.law.curve(named, x)
    place = family.discrepancy.place(family.law, named, x)
    return place.f + family.discrepancy.columns(place).nan_to_num() @ family.discrepancy.mean_

"""What the parts of the calibration benchmark share: simulated families, measured ones, scores, what was asked.

Simulated: X(t) = 1 - exp(-(k t)^n), noise sd .02, 30 times from .1 to 3 of each past alloy; 300 new ones seen at m
times up to .6, scored at 40 times in (.6, 3] against the noise-free truth. A withheld band counts as all of the range.
Measured: one curve is left out, all others are the past; the band has to hold the curve's other readings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from kinetics_rivals import Past, Prediction
from numpy import ndarray

from scimeta import Curve, Law, laws
from simulators.kinetics import Family, alloy_family, two_kinds

SMOKE = "SCIMETA_SMOKE" in os.environ
NEW = 12 if SMOKE else 300
PAST_TIMES = np.linspace(0.1, 3.0, 30)
NEW_TIMES = np.linspace(0.6, 3.0, 41)[1:]


class Asked(NamedTuple):
    """A line of what was asked, and what was measured; ``met`` is None where that is no verdict."""

    what: str
    measured: str
    asked: str
    met: bool | None


def print_asked(lines: Sequence[Asked]) -> None:
    """Print the verdicts; of shrunken sizes there are none."""
    print("\nWhat was asked, line by line")
    for line in lines:
        verdict = "not judged" if SMOKE or line.met is None else ("met" if line.met else "MISSED")
        print(f"  {line.what:<56} {line.measured:>22}   asked {line.asked:<16} {verdict}")


def at_most(what: str, value: float, bound: float) -> Asked:
    return Asked(what, f"{value:.4g}", f"<= {bound:g}", bool(value <= bound))


def between(what: str, value: float, low: float, high: float) -> Asked:
    asked = f">= {low:g}" if high == 1.0 else f"{low:g} to {high:g}"
    return Asked(what, f"{value:.3f}", asked, bool(low <= value <= high))


def paired(ours: ndarray, theirs: ndarray) -> tuple[float, float]:
    """Return how far our mean squared errors lie above others' on the same specimens, and its standard error.

    Args:
        ours, theirs: (specimens,).
    """
    gap = ours - theirs
    return float(gap.mean()), float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else float("nan")


def paired_text(ours: ndarray, theirs: ndarray) -> str:
    """Return the difference as a cell of a table."""
    return "{:+.2e} +- {:.1e}".format(*paired(ours, theirs))


def behind_curve_fit(what: str, ours: ndarray, theirs: ndarray) -> Asked:
    """Return the line on what a past is worth: not behind `curve_fit` by more than one standard error."""
    gap, error = paired(ours, theirs)
    met = None if np.isnan(error) else bool(gap <= error)
    return Asked(f"{what}: behind curve_fit by", paired_text(ours, theirs), f"<= {error:.1e}", met)


class Scores(NamedTuple):
    """Of a method: root mean square error, interval score and coverage of the 90 % band, share of withheld bands."""

    rmse: float
    interval: float
    coverage: float
    withheld: float


def scores(found: Prediction, truth: ndarray, ends: tuple[float, float] = (0.0, 1.0)) -> Scores:
    """Return the scores; nan for the band where a method has none.

    Args:
        found: (specimens, times) each.
        truth: (specimens, times), or what was measured there.
        ends: of the band that stands for a withheld one.
    """
    error = float(np.sqrt(np.mean((found.mean - truth) ** 2)))
    if found.lower is None:
        return Scores(error, np.nan, np.nan, np.nan)
    none = ~(np.isfinite(found.lower) & np.isfinite(found.upper))
    lower, upper = np.where(none, ends[0], found.lower), np.where(none, ends[1], found.upper)
    miss = np.maximum(lower - truth, 0.0) + np.maximum(truth - upper, 0.0)
    return Scores(error, float(np.mean(upper - lower + 20 * miss)), float(np.mean(miss == 0)), float(none.mean()))


def cells(found: Scores) -> str:
    """Return the scores as the cells of a table."""
    return f"{found.rmse:9.4g} " + (
        f"{'none':>9s} {'':17s}"
        if np.isnan(found.interval)
        else f"{found.interval:9.4g} {found.coverage:8.3f} {found.withheld:8.3f}"
    )


PAIRED = "paired error - curve_fit's"
HEADER = f"{'RMSE':>9s} {'interval':>9s} {'coverage':>8s} {'withheld':>8s}"


class Row(NamedTuple):
    """A row of simulated alloys, and what was asked of it.

    Attributes:
        title: as the table shows it.
        kinds: 1 or 2.
        past: number of past alloys.
        points: numbers of points at which new ones are seen.
        outliers: share of wrong points, past and new.
        seeds: how many.
        rmse, interval: at most these; over the limit's where ``outliers``.
        coverage: between these.
    """

    title: str
    kinds: int
    past: int
    points: tuple[int, ...]
    outliers: float
    seeds: int
    rmse: float
    interval: float
    coverage: tuple[float, float]


ROWS = {
    "one20": Row("one kind, past of 20", 1, 20, (3,), 0.0, 8, 0.086, 0.239, (0.84, 1.0)),
    "one8": Row("one kind, past of 8", 1, 8, (3,), 0.0, 8, 0.093, 0.247, (0.83, 1.0)),
    "two200": Row("two kinds, past of 200", 2, 200, (3,), 0.0, 8, 0.058, 0.140, (0.87, 0.92)),
    "two20": Row("two kinds, past of 20", 2, 20, (3,), 0.0, 8, 0.060, 0.165, (0.84, 1.0)),
    "outliers": Row("5 % outliers, past of 200", 1, 200, (3, 5, 8), 0.05, 3, 1.05, 1.05, (0.86, 0.92)),
}


class Noise(NamedTuple):
    """A row of simulated alloys of one kind whose noise grows with what is measured.

    Attributes:
        title: as the table shows it.
        sd: of a measurement, at the true fractions.
    """

    title: str
    sd: Callable[[ndarray], ndarray]


NOISES = {
    "proportional": Noise("noise sd .003 + .15 X, past of 60", lambda x: 0.003 + 0.15 * x),
    "combined": Noise("noise sd sqrt(.02^2 + (.1 X)^2), past of 60", lambda x: np.hypot(0.02, 0.1 * x)),
}


def seen_times(points: int) -> ndarray:
    """Return (points,) when new alloys are seen."""
    return 0.6 * np.arange(1, points + 1) / points


def family(row: Row, count: int, times: ndarray, rng: np.random.Generator) -> Family:
    """Return alloys of the row's kind."""
    draw = alloy_family if row.kinds == 1 else two_kinds
    return draw(count, rng=rng, times=times, outliers=row.outliers)


def past(row: Row, seed: int) -> Past:
    """Return the row's past alloys."""
    count = min(row.past, 20) if SMOKE else row.past
    return Past(PAST_TIMES, np.stack(family(row, count, PAST_TIMES, np.random.default_rng([seed, 0])).fractions))


def new(row: Row, points: int, seed: int) -> tuple[ndarray, ndarray]:
    """Return what is measured of the new alloys, (alloys, points), and the truth (alloys, times) to predict."""
    found = family(row, NEW, seen_times(points), np.random.default_rng([seed, points]))
    return np.stack(found.fractions), found.truth(NEW_TIMES)


class Measured(NamedTuple):
    """A family of measured curves; of each the first three points are seen.

    Attributes:
        name: of its folder and file.
        law: that it is said to follow.
        curves: the specimens.
    """

    name: str
    law: Law
    curves: list[Curve]


FILES = {  # folder -> law, specimen, x, y
    "orange_trees": (laws.LOGISTIC, ["Tree"], "age", "circumference"),
    "loblolly_pines": (laws.CHAPMAN_RICHARDS, ["Seed"], "age", "height"),
    "co2_uptake": (laws.ASYMPTOTIC, ["Plant"], "conc", "uptake"),
    "chick_weight": (laws.LOGISTIC, ["Chick"], "Time", "weight"),
    "dnase_elisa": (laws.FOUR_PARAMETER_LOGISTIC, ["Run"], "conc", "density"),
    "puromycin": (laws.MICHAELIS_MENTEN, ["state", "reading"], "conc", "rate"),
}
"""Duplicates of an assay are averaged; those of puromycin are specimens of their own, or two would be all there are."""

LEAST_POINTS = 5  # of a curve that is left out; the past takes the shorter ones too


def measured_families(data: Path) -> list[Measured]:
    """Return the families whose files are there; says of the others that they are not."""
    found = []
    for name, (law, by, x, y) in FILES.items():
        path = data / name / f"{name}.csv"
        if not path.is_file():
            print(f"{name}: left out, there is no {path}")
            continue
        table = pd.read_csv(path)
        table["reading"] = table.groupby([*by[:1], x]).cumcount()
        means = table.groupby([*by, x])[y].mean().reset_index(level=x)
        curves = [Curve(str(one), rows[x], rows[y]) for one, rows in means.groupby(level=list(range(len(by))))]
        found.append(Measured(name, law, [curve for curve in curves if len(curve) >= 3]))
    return found


def theophylline(data: Path) -> tuple[list[Curve], ndarray] | None:
    """Return concentration over dose, and the doses (subjects,); None, said aloud, where there is no file."""
    path = data / "theophylline" / "theophylline.csv"
    if not path.is_file():
        print(f"theophylline: left out, there is no {path}")
        return None
    table = pd.read_csv(path)
    subjects = [(str(name), rows[rows["Time"] > 0]) for name, rows in table.groupby("Subject")]
    curves = [Curve(name, rows["Time"], rows["conc"] / rows["Dose"]) for name, rows in subjects]
    return curves, np.array([rows["Dose"].iloc[0] for _, rows in subjects])

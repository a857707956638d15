"""The map against the car: tuned Adam, MAML with learned rates, the learned rule and both, on five terrains."""

from __future__ import annotations

import os

import learned_optimizer_problems as problems_of
import learned_optimizer_sinusoids
from learned_optimizer_learned import learned_map, test_scores
from learned_optimizer_ours import Ours, learn_both, run
from learned_optimizer_problems import CLEAN, KNOWN, SHARED, SMOOTH, SMOOTH_STEPS, UNKNOWN, Family
from learned_optimizer_rivals import tuned

SMOKE = "SCIMETA_SMOKE" in os.environ
STEPS = problems_of.HORIZONS[0]
MAPS = {"element": "map", "step": "map, each step"}
"""MAML with a learned rate for each coordinate, and for each step."""
ROWS: tuple[tuple[Family, int, tuple[float | None, ...]], ...] = (
    (SMOOTH, SMOOTH_STEPS, (-0.67, -5.83, -3.19, -6.26)),
    (CLEAN, STEPS, (-3.41, -2.09, -4.03, None)),
    (UNKNOWN, STEPS, (-1.49, -0.75, -1.61, None)),
    (KNOWN, STEPS, (-1.38, -1.64, -1.62, None)),
    (SHARED, STEPS, (None, None, None, None)),
)
"""Family, steps, and the figures asked for of the four columns."""


def main(ours: Ours) -> None:
    """Print the table, measured and (asked for), and by how much map and car are ahead of each other."""
    columns = ("Adam", *MAPS.values(), "car", "both")
    print("\nMap against car: mean log10 of final over initial value (asked for); lower is better")
    print(f"    {'':<34} {'at':>3} " + " ".join(f"{column:>15}" for column in columns) + "   map / car in value")
    for family, steps, asked in ROWS[::3] if SMOKE else ROWS:
        means = row(family, steps, ours)
        wanted = dict(zip(("Adam", "map", "car", "both"), asked, strict=True))
        cells = [cell(means.get(column), wanted.get(column)) for column in columns]
        best = min(means["map"], means["map, each step"])
        ahead = f"{10 ** (best - means['car']):10.3g}" if "car" in means else f"{'':>10}"
        print(f"    {family.name:<34} {steps:>3} " + " ".join(f"{text:>15}" for text in cells) + ahead, flush=True)
    means = learned_optimizer_sinusoids.row(ours)
    cells = [
        cell(means.get(column), asked) for column, asked in zip(columns, (12.4, 0.53, None, 10.6, None), strict=True)
    ]
    name, steps = "ten-shot sinusoids: query loss", learned_optimizer_sinusoids.STEPS
    print(f"    {name:<34} {steps:>3} " + " ".join(f"{text:>15}" for text in cells), flush=True)


def row(family: Family, steps: int, ours: Ours) -> dict[str, float]:
    """Return column -> mean score on the test problems."""
    rate = tuned(family, steps, "SGD").best[0]
    found = {"Adam": tuned(family, steps, "Adam").scores}
    learners = {rates: learned_map(family, steps, min(rate, 1.0), rates) for rates in ("element", "step")}
    found |= {MAPS[rates]: test_scores(learner, family) for rates, learner in learners.items()}
    test = problems_of.test(family, steps)
    both = learn_both(ours, learners["element"].meta.init, family, steps)
    found |= {name: run(ours.adapt, meta, test, (steps,))[steps] for name, meta in (("car", ours.meta), ("both", both))}
    return {name: float(scores.mean()) for name, scores in found.items()}


def cell(measured: float | None, asked: float | None) -> str:
    """Return "measured (asked)", with what there is of the two."""
    text = "-" if measured is None else f"{measured:.2f}"
    return text if asked is None else f"{text} ({asked:.2f})"

"""Learning to optimise: our learned rule beside tuned classical rivals, learned schedules and maps, and the limit.

    python tests/benchmarks/learned_optimizer.py [--only noisy clean sizes steepness curved table training real]

Figures are means over 512 held-out problems of log10 of the final over the initial noise-free value, so that lower is
better and -1 is a tenth; behind each stands, in brackets, what was asked for, and after a "!" the share of the problems
that ended above their start (scores count at most +3). SGD, heavy ball, Nesterov and Adam are tuned by grid on 256
validation problems for each family and horizon apart, over rate, momentum or betas, and a rate that stays or falls
linearly to zero. Problems as in ``learned_optimizer_problems``. Our rule is trained here, once, and its time printed.

SCIMETA_SMOKE=1 shrinks the sizes.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace

import learned_optimizer_problems as problems_of
import learned_optimizer_real
import learned_optimizer_table
import learned_optimizer_training
import torch
from learned_optimizer_learned import learned_map, learned_schedule, test_scores
from learned_optimizer_ours import GUARD_LR, Ours, run, train_ours
from learned_optimizer_problems import (
    CLEAN,
    FLOORED,
    HORIZONS,
    LONG,
    NOISE,
    NOISY,
    UNKNOWN,
    Family,
    bayes_limit,
    curved,
    rotated,
)
from learned_optimizer_rivals import GRIDS, conjugate_gradient, lbfgs, tuned
from torch import Tensor

from scimeta.core.guard import guarded
from scimeta.core.rules import adam

Rows = dict[str, dict[int, Tensor]]
"""Rival -> number of steps -> (problems,) scores."""

PARTS = ("noisy", "clean", "sizes", "steepness", "curved", "table", "training", "real")
SHORT = HORIZONS[0]
ASKED_AT = (20, 100, 1000)
ASKED = {
    ("noisy ravines", "ours"): (-1.66, -2.11, -2.60),
    ("noisy ravines", "Adam"): (-1.51, -2.03, None),
    ("noisy ravines", "learned schedule"): (-1.65, None, None),
    ("noisy ravines", "Bayes limit"): (-1.79, -2.27, None),
    ("clean ravines", "ours"): (-4.03, -10.2, None),
    (FLOORED.name, "ours"): (None, -10.2, None),
    (FLOORED.name, "Adam"): (None, -8.08, None),
    (FLOORED.name, "heavy ball"): (None, -8.22, None),
    ("clean ravines", "Adam"): (-3.41, -8.08, None),
    ("clean ravines", "heavy ball"): (-3.31, -8.22, None),
    ("clean ravines", "learned schedule"): (-3.44, -7.42, None),
    ("curved ravines, noisy", "Adam"): (None, -2.32, None),
    ("curved ravines, noisy", "Nesterov"): (None, -2.53, None),
    ("curved ravines, noisy", "ours"): (None, -2.32, None),
    ("curved ravines, noisy", "ours, guarded"): (None, -2.32, None),
}
"""(family, rival) -> what it should give, or was said to give, at those steps."""


@functools.cache
def ours() -> Ours:
    """Return our rule, trained at the first call."""
    found = train_ours()
    print(f"\nOur rule: trained in {found.seconds:.0f} CPU s (60)", flush=True)
    return found


def print_family(family: Family, horizons: tuple[int, ...], others: Rows | None = None) -> None:
    """Print a table, a column for each horizon: tuned rivals, what else is given, ours."""
    rule, rows = ours(), {name: {steps: tuned(family, steps, name).scores for steps in horizons} for name in GRIDS}
    rows |= others or {}
    rows["ours"] = run(rule.adapt, rule.meta, problems_of.test(family, max(horizons)), horizons)
    print(f"\n{family.name}, D = {family.dimension}")
    print(f"    {'':<24}" + "".join(f"{f'at {steps}':>22}" for steps in horizons))
    for name, scores in rows.items():
        asked = dict(zip(ASKED_AT, ASKED.get((family.name, name), ()), strict=False))
        cells = [cell(scores.get(steps), asked.get(steps)) for steps in horizons]
        print(f"    {name:<24}" + "".join(f"{text:>22}" for text in cells), flush=True)


def cell(scores: Tensor | None, asked: float | None) -> str:
    """Return the mean, what was asked for and the share of problems that ended above their start."""
    if scores is None:
        return "-"
    worse = float((scores > 0).double().mean())
    text = f"{float(scores.mean()):.2f}" if asked is None else f"{float(scores.mean()):.2f} ({asked:.2f})"
    return f"{text} !{100 * worse:.1f}%" if worse else text


def schedules(family: Family) -> Rows:
    """Return the learned schedule of each horizon, from the tuned heavy ball on."""
    found = {}
    for steps in HORIZONS:
        lr, momentum, falls = tuned(family, steps, "heavy ball").best
        found[steps] = test_scores(learned_schedule(family, steps, lr * (1 - falls / 2), momentum), family)
    return {"learned schedule": found}


def noisy() -> None:
    """Rotated ravines with gradient noise, to ten times the training horizon, beside the limit."""
    limits = {steps: bayes_limit(problems_of.test(NOISY, steps), steps) for steps in (*HORIZONS, LONG)}
    print_family(NOISY, (*HORIZONS, LONG), schedules(NOISY) | {"Bayes limit": limits})
    reached = run(ours().adapt, ours().meta, problems_of.test(NOISY, LONG), HORIZONS)
    for steps in HORIZONS:
        limit, best_adam = limits[steps], tuned(NOISY, steps, "Adam").scores
        above = reached[steps] - limit
        closed = 100 * (1 - float(above.mean() / (best_adam - limit).mean()))
        print(
            f"    at {steps}: ours {float(above.mean()):.3f} +- {error(above):.3f} above the limit, itself known "
            f"to {error(limit):.3f}; {closed:.0f} % of the gap from Adam to it closed" + (" (70)" * (steps == 20))
        )


def error(values: Tensor) -> float:
    """Return the standard error of the mean."""
    return float(values.std()) / len(values) ** 0.5


def clean() -> None:
    """Rotated ravines without noise, beside solvers that ask for the curvature along each direction."""
    test = problems_of.test(CLEAN, 1)
    exact = {
        "conjugate gradient": {steps: conjugate_gradient(test, steps) for steps in HORIZONS},
        "L-BFGS": {steps: lbfgs(test, steps) for steps in HORIZONS},
    }
    print_family(CLEAN, HORIZONS, schedules(CLEAN) | exact)
    print("    Conjugate gradient and L-BFGS search lines exactly: on clean quadratics they win by orders of magnitude")
    print_family(FLOORED, HORIZONS[1:])


def sizes() -> None:
    """Noisy ravines of 2 and 50 dimensions, our rule as trained on 10."""
    for dimension in (2,) if problems_of.SMOKE else (2, 50):
        family = rotated(NOISE, dimension, "noisy ravines of another size")
        limits = {steps: bayes_limit(problems_of.test(family, steps), steps) for steps in HORIZONS}
        print_family(family, HORIZONS, {"Bayes limit": limits})


def steepness() -> None:
    """Noisy ravines whose steepness is unknown: how much lower than Adam and than the map ours ends."""
    maps = {
        f"MAML, rates by {rates}": {SHORT: test_scores(learned_map(UNKNOWN, SHORT, 0.04, rates), UNKNOWN)}
        for rates in ("element", "step")
    }
    print_family(UNKNOWN, (SHORT,), maps)
    rule = ours()
    reached = run(rule.adapt, rule.meta, problems_of.test(UNKNOWN, SHORT), (SHORT,))[SHORT].mean()
    best_adam = tuned(UNKNOWN, SHORT, "Adam").scores.mean()
    best = min(float(scores[SHORT].mean()) for scores in maps.values())
    lower = [float(10 ** (rival - reached)) for rival in (best, best_adam)]
    print(f"    ours ends lower than MAML by {lower[0]:.1f} times (5), than Adam by {lower[1]:.2f} (1.2)")


def curved_ravines() -> None:
    """Curved ravines, with and without noise, our rule also under its guard."""
    rule = ours()
    guard = replace(rule.adapt, rule=guarded(rule.adapt.rule, adam(GUARD_LR)))
    for family in (curved(NOISE), curved(0.0)):
        reached = run(guard, rule.meta, problems_of.test(family, max(HORIZONS)), HORIZONS)
        print_family(family, HORIZONS, {"ours, guarded": reached})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "noisy": noisy,
        "clean": clean,
        "sizes": sizes,
        "steepness": steepness,
        "curved": curved_ravines,
        "table": lambda: learned_optimizer_table.main(ours()),
        "training": learned_optimizer_training.main,
        "real": learned_optimizer_real.main,
    }
    for name in args.only:
        parts[name]()


if __name__ == "__main__":
    main()

"""What learning and fitting cost, in CPU seconds of one thread, of the usual sizes and with nothing set."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from calibration_problems import PAST_TIMES, SMOKE, Asked, at_most, measured_families, seen_times

from scimeta import Calibrator, Curve, Law, Prior, datasets, learn_prior
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import Family, alloy_family

BATCH, ROUNDS = (200, 1) if SMOKE else (10_000, 3)
REPEATS = 3 if SMOKE else 30  # of what takes milliseconds
ASSAY = "dnase_elisa"


def main(data: Path | None, seed: int) -> list[Asked]:
    """Print what learning costs of 5, 63 and 200 curves, and what fits cost alone, in a batch and printed."""
    print("\nlearning and fitting, CPU time of one thread, nothing set")
    runs = list(datasets.hydride_absorption())[: 8 if SMOKE else None]
    conditions = ("1/temperature", "log(pressure [bar])")
    alloys = curves(alloy_family(12 if SMOKE else 200, rng=np.random.default_rng([seed, 3]), times=PAST_TIMES))
    lines = []
    assay = next((f for f in measured_families(data) if f.name == ASSAY), None) if data else None
    if assay is None:
        print(f"  learn_prior of 5 curves, four parameters: left out, it needs {ASSAY} of --data FOLDER")
    else:
        lines += learning("5 curves, four parameters", assay.law, assay.curves[:5], (), 5.0)[0]
    told, uptake = learning(f"{len(runs)} hydrogen uptakes, two conditions", JMAK, runs, conditions, 10.0)
    lines += told
    with_discrepancy(Calibrator(JMAK, uptake), runs)
    told, prior = learning(f"{len(alloys)} simulated alloys", JMAK, alloys, (), 10.0)
    return [*lines, *told, *fitting(prior, seed)]


def learning(
    what: str, law: Law, past: Sequence[Curve], conditions: Sequence[str], bound: float
) -> tuple[list[Asked], Prior]:
    """Print what it costs to learn a past; return what was asked, and the prior."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seconds, prior = cpu(lambda: learn_prior(law, past, conditions=conditions))
    print(f"  learn_prior, {what}: {seconds:.2f} s", flush=True)
    return [at_most(f"learn_prior, {what}: s", seconds, bound)], prior


def fitting(prior: Prior, seed: int) -> list[Asked]:
    """Print what fits of three points cost in a batch, alone, and printed."""
    calibrator = Calibrator(JMAK, prior)
    new = curves(alloy_family(BATCH, rng=np.random.default_rng([seed, 4]), times=seen_times(3)))
    each = median(lambda: calibrator.fit_many(new), ROUNDS) / BATCH
    alone = median(lambda: calibrator.fit(new[0].x, new[0].y), REPEATS)
    fits = iter([calibrator.fit(one.x, one.y) for one in new[:REPEATS]])  # each printed once: a fit keeps its numbers
    printing = median(lambda: str(next(fits)), REPEATS)
    print(f"  fit_many, {BATCH} specimens of 3 points: {each:.3f} ms each; one alone: {alone:.2f} ms")
    print(f"  print(fit): {printing:.2f} ms")
    return [
        at_most("fit_many, batch of 10,000, 3 points: ms each", each, 0.15),
        at_most("fit of one alone: ms", alone, 5.0),
        at_most("print(fit): ms", printing, 2.0),
    ]


def with_discrepancy(calibrator: Calibrator, runs: Sequence[Curve]) -> None:
    """Print what fits of four readings cost where the prior has a discrepancy."""
    each = median(lambda: calibrator.fit_many([Curve(r.name, r.x[:4], r.y[:4], None, r.conditions) for r in runs]), 3)
    alone = median(lambda: calibrator.fit(runs[0].x[:4], runs[0].y[:4], conditions=runs[0].conditions), REPEATS)
    missed = "with" if calibrator.prior.family.discrepancy is not None else "without"
    print(
        f"  fit_many, {missed} a discrepancy: {each / len(runs):.2f} ms each of {len(runs)}; one alone: {alone:.1f} ms"
    )


def median(call: Callable, repeats: int) -> float:
    """Return the median CPU time of a call in ms."""
    return 1e3 * float(np.median([cpu(call)[0] for _ in range(repeats)]))


def cpu(call: Callable) -> tuple[float, object]:
    """Return the CPU seconds of a call and its result."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def curves(family: Family) -> list[Curve]:
    rows = enumerate(zip(family.times, family.fractions, strict=True))
    return [Curve(f"{i}", t, y) for i, (t, y) in rows]

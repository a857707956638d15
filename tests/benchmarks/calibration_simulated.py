"""Rows of simulated alloys: short pasts, two kinds, outliers; ours, the limit and the rivals on the same alloys."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from calibration_problems import (
    HEADER,
    NEW_TIMES,
    ROWS,
    SMOKE,
    Asked,
    Row,
    Scores,
    at_most,
    between,
    cells,
    new,
    past,
    seen_times,
)
from calibration_problems import scores as scored
from calibration_rivals import LIMIT, simulated_rivals
from kinetics_rivals import Past, Predict, Prediction, nuts
from numpy import ndarray

from scimeta import Calibrator, Curve, learn_prior
from scimeta.domains.kinetics import JMAK

OURS = "ours"
OF_THE_POINTS = (LIMIT, "NumPyro NUTS, one Gaussian")  # built anew for each number of points
Build = Callable[[Past, ndarray], Predict]


def ours(known: Past, seen: ndarray) -> Predict:
    """Ours, with nothing set."""
    calibrator = Calibrator(
        JMAK, learn_prior(JMAK, [Curve(f"{i}", known.time, y) for i, y in enumerate(known.fraction)])
    )

    def predict(seen: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        fits = calibrator.fit_many([Curve(f"new {i}", seen, y) for i, y in enumerate(fractions)])
        band = fits.band(times, 0.9)
        return Prediction(fits.predict(times), band.lower, band.upper)

    return predict


def main(name: str, first: int, count: int | None) -> list[Asked]:
    """Print one row's table, means over seeds; return what was asked of it."""
    row = ROWS[name]
    seeds = range(first, first + (1 if SMOKE else count or row.seeds))
    print(f"\n{row.title}: {len(seeds)} seed{'s' * (len(seeds) > 1)} from {first}")
    print(f"  {'method':46s} {'points':>6s} {HEADER} {'learning, s':>11s}")
    found: dict[tuple[str, int], list[Scores]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in seeds:
        for method, m, values, learning in one_seed(
            row, seed, {OURS: ours, **simulated_rivals(row.kinds, row.outliers)}
        ):
            found.setdefault((method, m), []).append(values)
            seconds.setdefault(method, []).append(learning)
    means = {key: Scores(*np.mean(values, axis=0)) for key, values in found.items()}
    for (method, m), values in means.items():
        print(f"  {method:46s} {m:6d} {cells(values)} {np.mean(seconds[method]):11.2g}", flush=True)
    if not SMOKE:
        against_nuts(row, first, found)
    return [line for m in row.points for line in judged(row, m, means[OURS, m], means[LIMIT, m])]


def one_seed(row: Row, seed: int, methods: dict[str, Build]) -> list[tuple[str, int, Scores, float]]:
    """Return method, number of points, scores and the CPU seconds of learning, of one past and its new alloys."""
    known, results = past(row, seed), []
    for method, build in methods.items():
        learned: dict[int, tuple[Predict, float]] = {}
        for m in row.points:
            seen = seen_times(m)
            if not learned or method in OF_THE_POINTS:
                begin = time.process_time()
                learned = {0: (build(known, seen), time.process_time() - begin)}
            fractions, truth = new(row, m, seed)
            predict, seconds = learned[0]
            results.append((method, m, scored(predict(seen, fractions, NEW_TIMES), truth), seconds))
    return results


def against_nuts(row: Row, seed: int, found: dict[tuple[str, int], list[Scores]]) -> None:
    """Print NUTS, whose one chain takes minutes, on the first seed alone, beside ours there."""
    try:
        results = one_seed(row, seed, {"NumPyro NUTS, one Gaussian": nuts})
    except ImportError as error:
        print(f"  NumPyro NUTS: left out, {error.name} is not installed")
        return
    for method, m, values, _ in results:
        print(f"  {f'{method}, first seed':46s} {m:6d} {cells(values)}")
        print(f"  {f'{OURS}, first seed':46s} {m:6d} {cells(found[OURS, m][0])}", flush=True)


def judged(row: Row, m: int, ours: Scores, limit: Scores) -> list[Asked]:
    """Return what was asked of one number of points, with what the limit reaches on the same alloys."""
    what, over = f"{row.title}, {m} points", " over limit" if row.outliers else ""
    times = (limit.rmse, limit.interval) if row.outliers else (1.0, 1.0)
    found = [
        at_most(f"{what}: RMSE{over}", ours.rmse / times[0], row.rmse),
        at_most(f"{what}: interval score{over}", ours.interval / times[1], row.interval),
        between(f"{what}: coverage", ours.coverage, *row.coverage),
    ]
    best = (f"{limit.rmse:.4g}", f"{limit.interval:.4g}", f"{limit.coverage:.3f}")
    return [line._replace(measured=f"{line.measured} (limit {b})") for line, b in zip(found, best, strict=True)]

"""Rows of simulated alloys whose noise grows with the fraction: ours, the limit and the rivals on the same alloys.

Population of one kind, past of 60 alloys with 30 points each, 300 new ones seen at 3, 5 or 8 times up to .6 and scored
at 40 times in (.6, 3] against the noise-free truth. The limit knows population and noise; ours knows neither.
Its own 90 % band holds about .91: late fractions round to 1, which no band misses.
"""

from __future__ import annotations

import numpy as np
from calibration_problems import (
    HEADER,
    NEW,
    NEW_TIMES,
    NOISES,
    PAIRED,
    PAST_TIMES,
    SMOKE,
    Asked,
    Noise,
    Scores,
    at_most,
    behind_curve_fit,
    between,
    cells,
    paired_text,
    scores,
    seen_times,
)
from calibration_rivals import CURVE_FIT, LAW_ALONE, LIMIT, MEAN_CURVE, law_alone, limit_of_noise, mean_of_past
from kinetics_rivals import Past, Predict, Prediction, bounded_curve_fit
from numpy import ndarray

from scimeta import Calibrator, Curve, learn_prior
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import alloy_family

OURS = "ours"
PAST, POINTS, SEEDS = (12 if SMOKE else 60), (3, 5, 8), 3
OVER, COVERAGE = 1.02, (0.87, 0.92)  # of the limit's RMSE on the same alloys; of the curve


def main(name: str, first: int, count: int | None) -> list[Asked]:
    """Print one row's table, means over seeds; return what was asked of it."""
    row, seeds = NOISES[name], range(first, first + (1 if SMOKE else count or SEEDS))
    print(f"\n{row.title}: {len(seeds)} seed{'s' * (len(seeds) > 1)} from {first}")
    print(f"  {'method':46s} {'points':>6s} {HEADER}  {PAIRED}")
    found: dict[tuple[str, int], list[tuple[Scores, ndarray]]] = {}
    for seed in seeds:
        for key, result in one_seed(row, seed).items():
            found.setdefault(key, []).append(result)
    means = {key: Scores(*np.mean([values for values, _ in some], axis=0)) for key, some in found.items()}
    errors = {key: np.concatenate([each for _, each in some]) for key, some in found.items()}
    lines = []
    for (method, m), values in means.items():
        gap = paired_text(errors[method, m], errors[CURVE_FIT, m])
        print(f"  {method:46s} {m:6d} {cells(values):46s} {gap}", flush=True)
    for m in POINTS:
        what, best = f"{row.title}, {m} points", means[LIMIT, m]
        held = between(f"{what}: coverage", means[OURS, m].coverage, *COVERAGE)
        over = at_most(f"{what}: RMSE over limit", means[OURS, m].rmse / best.rmse, OVER)
        lines += [
            over._replace(measured=f"{over.measured} (limit {best.rmse:.4g})"),
            held._replace(measured=f"{held.measured} (limit {best.coverage:.3f})"),
            behind_curve_fit(what, errors[OURS, m], errors[CURVE_FIT, m]),
        ]
    return lines


def one_seed(row: Noise, seed: int) -> dict[tuple[str, int], tuple[Scores, ndarray]]:
    """Return (method, points) -> scores, and (alloys,) mean squared errors, of one past and its new alloys."""
    known = Past(PAST_TIMES, drawn(row, PAST, PAST_TIMES, np.random.default_rng([seed, 0]))[0])
    prior = learn_prior(JMAK, [Curve(f"{i}", known.time, y) for i, y in enumerate(known.fraction)])
    ours = {OURS: fitted(Calibrator(JMAK, prior)), LAW_ALONE: fitted(Calibrator(JMAK, law_alone(prior)))}
    results = {}
    for m in POINTS:
        seen = seen_times(m)
        measured, truth = drawn(row, NEW, seen, np.random.default_rng([seed, m]))
        rivals = {
            LIMIT: limit_of_noise(seen, row.sd),
            CURVE_FIT: bounded_curve_fit(known, seen),
            MEAN_CURVE: mean_of_past(known, seen),
        }
        for method, predict in {**ours, **rivals}.items():
            result = predict(seen, measured, NEW_TIMES)
            results[method, m] = scores(result, truth), ((result.mean - truth) ** 2).mean(1)
    return results


def drawn(row: Noise, count: int, times: ndarray, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Return what is measured of new alloys, (alloys, times), and their truth at the times of the score."""
    family = alloy_family(count, rng=rng, times=times, noise=0.0)
    exact = np.stack(family.fractions)
    return exact + row.sd(exact) * rng.standard_normal(exact.shape), family.truth(NEW_TIMES)


def fitted(calibrator: Calibrator) -> Predict:
    """Return the predictor of ours, with the band of the curve itself."""

    def predict(seen: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        fits = calibrator.fit_many([Curve(f"new {i}", seen, y) for i, y in enumerate(fractions)])
        band = fits.band(times, 0.9)
        return Prediction(fits.predict(times), band.lower, band.upper)

    return predict

"""The row of designed points, and what everything costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from calibration_problems import PAST_TIMES, SMOKE, Asked, Row, at_most, family
from calibration_times import BATCH, ROUNDS, cpu
from numpy import ndarray

from scimeta import Calibrator, Curve, learn_prior
from scimeta.calibration.fits.calibration import Calibrations
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import alloy_family, fraction

ALLOYS = 8 if SMOKE else 100
GOAL = (0.02, 0.15)  # typical error of ln k and n
CANDIDATES = np.linspace(0.1, 3.0, 59)
PLACES = np.linspace(0.05, 3.0, 100)  # the candidates whose cost is measured
MOST = 30
SPACINGS = {
    "from .1 to 3 s": lambda m: np.linspace(0.1, 3.0, m),
    "up to 3 s": lambda m: 3.0 * np.arange(1, m + 1) / m,
    "in the middle of m equal parts": lambda m: 3.0 * (np.arange(m) + 0.5) / m,
}
HARDEST = Row("two kinds, outliers", 2, 200, (3, 8), 0.05, 1, 0.0, 0.0, (0.0, 1.0))  # everything is on


def main(seed: int) -> list[Asked]:
    """Print how many points each way of placing them needs, past of 20; return what was asked."""
    rng = np.random.default_rng([seed, 1])
    past = alloy_family(20, rng=rng)
    rows = enumerate(zip(past.times, past.fractions, strict=True))
    calibrator = Calibrator(JMAK, learn_prior(JMAK, [Curve(f"{i}", t, y) for i, (t, y) in rows]))
    new = alloy_family(ALLOYS, rng=rng)

    def errors(fits: Calibrations) -> ndarray:
        values = fits.estimates()
        off = np.log(values["k"]["value"] / new.k), values["n"]["value"] - new.n
        return np.sqrt(np.mean(np.square(off), axis=1))

    def fitted(times: ndarray, fractions: ndarray) -> Calibrations:
        return calibrator.fit_many(
            [Curve(f"{i}", t, y) for i, (t, y) in enumerate(zip(times.T, fractions.T, strict=True))]
        )

    def measured(times: ndarray) -> ndarray:
        return fraction(times, new.k, new.n) + 0.02 * rng.standard_normal(times.shape)

    print(f"\npoints needed until {ALLOYS} alloys have typical errors of {GOAL[0]} of ln k and {GOAL[1]} of n")
    needed = {}
    for name, spacing in SPACINGS.items():
        for m in range(2, MOST + 1):
            times = np.repeat(spacing(m)[:, None], ALLOYS, 1)
            if (errors(fitted(times, measured(times))) <= GOAL).all():
                break
        needed[name] = m
        print(f"  {f'evenly, {name}':46s} {m}")
    designed = designed_points(fitted, measured, errors)
    print(f"  {'ours, each where it tells most, the first at 1.55 s':46s} {designed}")
    best = min(needed.values())
    return [at_most(f"design: {designed} points over {best} even ones", designed / best, 0.6667)]


def designed_points(fitted: Callable, measured: Callable, errors: Callable) -> int:
    """Return how many points are needed if each is measured where the ones before say."""
    times = np.full((1, ALLOYS), 1.55)
    fractions = measured(times)
    while len(times) < MOST:
        fits = fitted(times, fractions)
        if (errors(fits) <= GOAL).all():
            break
        chosen = np.array([[fit.next_measurement(CANDIDATES).best for fit in fits]])
        times, fractions = np.concatenate([times, chosen]), np.concatenate([fractions, measured(chosen)])
    return len(times)


def times(seed: int) -> list[Asked]:
    """Print what learning, fitting and asking cost, with two kinds and outliers; return what was asked."""
    rng = np.random.default_rng([seed, 2])
    count = 12 if SMOKE else HARDEST.past
    past = family(HARDEST, count, PAST_TIMES, rng).fractions
    curves = [Curve(f"{i}", PAST_TIMES, y) for i, y in enumerate(past)]
    learning, prior = cpu(lambda: learn_prior(JMAK, curves))
    print(f"\ncosts, CPU time of one thread; {len(prior.components)} components, outliers {prior.outliers is not None}")
    print(f"  learn_prior, {count} curves of 30 points: {learning:.2f} s")
    lines = [at_most("learn_prior, 200 curves: s", learning, 20.0)]
    calibrator = Calibrator(JMAK, prior)
    for m in HARDEST.points:
        seen = 0.6 * np.arange(1, m + 1) / m
        batch = [Curve(f"{i}", seen, y) for i, y in enumerate(family(HARDEST, BATCH, seen, rng).fractions)]
        costs = [cpu(lambda batch=batch: calibrator.fit_many(batch)) for _ in range(ROUNDS)]
        each = 1e3 * float(np.median([cost for cost, _ in costs])) / BATCH
        print(f"  fit_many, {BATCH} specimens of {m} points: {each:.3f} ms each")
        lines.append(at_most(f"fit_many, batch of 10,000, {m} points: ms each", each, 0.2))
        fit = costs[-1][1][0]
        asking = 1e3 * np.median([cpu(lambda fit=fit: fit.next_measurement(PLACES))[0] for _ in range(5)])
        checking = 1e3 * cpu(lambda fit=fit: fit.family)[0]
        print(f"  next_measurement, {len(PLACES)} candidates: {asking:.0f} ms; family check: {checking:.0f} ms")
        lines.append(at_most("next_measurement, 100 candidates: ms", asking, 50.0))
    return lines

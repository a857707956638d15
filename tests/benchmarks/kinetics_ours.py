"""scimeta on the problem of the rivals, and what a fit costs beside theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from kinetics_rivals import NOISE, Past, Predict, Prediction, fit_by_curve_fit, fit_by_lmfit
from numpy import ndarray

from scimeta import Calibrator, Curve, LeastSquares, learn_prior
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import alloy_family


def ours(past: Past, seen: ndarray) -> Predict:
    """Ours: the prior from the past, then each specimen alone."""
    return one_by_one(learned(past).fit)


def our_least_squares(past: Past, seen: ndarray) -> Predict:
    """Our `LeastSquares`, which learns nothing from the past; told the noise as the other fits are."""
    return one_by_one(lambda t, y: LeastSquares(JMAK).fit(t, y, NOISE))


def learned(past: Past) -> Calibrator:
    """Return the calibrator that the past gives."""
    return Calibrator(JMAK, learn_prior(JMAK, as_curves(past.time, past.fraction)))


def one_by_one(fit: Callable[[ndarray, ndarray], Calibration]) -> Predict:
    """Return a Predict that fits each specimen, then asks for the expected curve and the band."""

    def predict(seen: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        fits = [fit(seen, y) for y in fractions]
        bands = [found.band(times, 0.9) for found in fits]
        mean = np.stack([found.predict(times) for found in fits])
        return Prediction(mean, np.stack([band.lower for band in bands]), np.stack([band.upper for band in bands]))

    return predict


def as_curves(times: ndarray, fractions: Sequence[ndarray]) -> list[Curve]:
    """Return one Curve a row."""
    return [Curve(f"alloy {i}", times, y) for i, y in enumerate(fractions)]


def print_times(
    past: Past, points: dict[int, ndarray], new_times: ndarray, batch: int, rounds: int, rng: np.random.Generator
) -> None:
    """Print median CPU ms a specimen; in every round each call takes a turn.

    Args:
        past: the past alloys.
        points: number of seen points -> the times (m,) at which they are seen.
        new_times: (times,) of the band.
        batch: number of specimens fitted together.
        rounds: repeats of everything.
        rng: of the new alloys.
    """
    print(f"\nmedian CPU ms a specimen, {rounds} rounds, a fit without its predictions; batch of {batch}")
    print(f"  {'':2s} {'one alone':^32s} | {'ours, a batch':^32s} |")
    print(f"  {'m':>2s} {'ours':>10s} {'curve_fit':>10s} {'lmfit':>10s} | "
          f"{'fit + intervals':>16s} {f'band, {len(new_times)} times':>15s} | {'learning, s':>11s}")  # fmt: skip
    calibrator = learned(past)
    by_lmfit = fit_by_lmfit()
    for m, seen in points.items():
        costs = []
        for _ in range(rounds):
            curves = as_curves(seen, alloy_family(batch, rng=rng, times=seen).fractions)
            some = curves[:20]
            alone = [cpu(lambda fit=fit, some=some: [fit(c.x, c.y) for c in some])[0] / len(some)
                     for fit in (calibrator.fit, fit_by_curve_fit, by_lmfit)]  # fmt: skip
            together, fits = cpu(lambda curves=curves: with_intervals(calibrator.fit_many(curves)))
            band, _ = cpu(lambda fits=fits: fits.band(new_times, 0.9))
            costs.append([*alone, together / batch, band / batch, 1e-3 * cpu(lambda: learned(past))[0]])
        one, scipy, lmfit, together, band, learning = 1e3 * np.median(costs, 0)
        print(f"  {m:2d} {one:10.2f} {scipy:10.2f} {lmfit:10.2f} | {together:16.4f} {band:15.4f} | {learning:11.2f}")


def with_intervals(fits: Calibrations) -> Calibrations:
    """Return the fits after their intervals were computed."""
    fits.estimates()
    return fits


def cpu(call: Callable[[], object]) -> tuple[float, object]:
    """Return the CPU seconds of a call and its result."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result

"""Predicting the rest of a new alloy's curve from its first points: ours, the limit and the rivals, in one run.

    python tests/benchmarks/kinetics.py [--seed 7] [--only simulated real nist]

X(t) = 1 - exp(-(k t)^n); (ln k, n) of an alloy ~ N((0, 2.5), [[.16, .10], [.10, .25]]) with n > .3; noise sd .02.
Past: 200 alloys at 30 times. New: 300 alloys seen at m times up to .6, scored at 40 times in (.6, 3] against the
noise-free truth. A band that is infinite or withheld counts as [0, 1]. Times are CPU times of one thread.
SCIMETA_SMOKE=1 shrinks the sizes, nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence

import kinetics_real
import kinetics_rivals as rivals
import numpy as np
import torch
from kinetics_rivals import NOISE, Past, Predict, Prediction, avrami
from numpy import ndarray

from scimeta import Calibrator, Curve, LeastSquares, learn_prior
from scimeta.calibration.result import Calibration, Calibrations
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import ONE_KIND, alloy_family

SMOKE = "SCIMETA_SMOKE" in os.environ
PAST, NEW = (40, 20) if SMOKE else (200, 300)
BATCH = 500 if SMOKE else 10_000
ROUNDS = 2 if SMOKE else 10  # of the race; medians are printed
META_TRAINING = 20 if SMOKE else rivals.META_TRAINING
REPEATS, LEFT_OUT = (2, 2) if SMOKE else (20, None)  # of the noise on real curves; curves left out in turn
SEEN = (3, 5, 8)

SEEN_UNTIL = 0.6
NEW_TIMES = np.linspace(SEEN_UNTIL, 3.0, 41)[1:]
MEAN, COVARIANCE = map(np.array, ONE_KIND)
GRID = np.linspace(-2.2, 2.2, 241), np.linspace(0.3, 5.2, 201)  # of (ln k, n), for the limit


def limit(past: Past, seen: ndarray) -> Predict:
    """The exact posterior under the true population and noise, on a grid of (ln k, n)."""
    theta = np.stack(np.meshgrid(*GRID, indexing="ij"), -1).reshape(-1, 2)
    offset = theta - MEAN
    log_prior = -0.5 * np.einsum("gi,ij,gj->g", offset, np.linalg.inv(COVARIANCE), offset)
    log_k, n = theta[:, :1], theta[:, 1:]
    at_seen = avrami(seen, np.exp(log_k), n)

    def one(y: ndarray, times: ndarray) -> list[ndarray]:
        log_weight = log_prior - 0.5 * (((at_seen - y) / NOISE) ** 2).sum(1)
        weight = np.exp(log_weight - log_weight.max())
        kept = weight > 1e-9 * weight.max()
        rest, weight = avrami(times, np.exp(log_k[kept]), n[kept]), weight[kept] / weight[kept].sum()
        order = rest.argsort(0)
        below, ordered = weight[order].cumsum(0), np.take_along_axis(rest, order, 0)
        ends = [np.take_along_axis(ordered, (below >= p).argmax(0)[None], 0)[0] for p in (0.05, 0.95)]
        return [weight @ rest, *ends]

    def predict(_: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        return Prediction(*np.stack([one(y, times) for y in fractions], 1))

    return predict


def ours(past: Past, seen: ndarray) -> Predict:
    """Ours: the prior from the past, then each specimen alone."""
    return one_by_one(Calibrator(JMAK, learn_prior(JMAK, as_curves(past.time, past.fraction))).fit)


def our_least_squares(past: Past, seen: ndarray) -> Predict:
    """Our `LeastSquares`, which learns nothing from the past; told the noise as the other fits are."""
    return one_by_one(lambda t, y: LeastSquares(JMAK).fit(t, y, NOISE))


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


METHODS: dict[str, Callable[[Past, ndarray], Predict]] = {
    "limit (exact posterior, true population)": limit,
    "ours": ours,
    "empirical Bayes, MAP + Laplace": rivals.empirical_bayes,
    "Meta-SGD on raw (k, n), 5 steps": lambda past, seen: rivals.meta_sgd(past, seen, META_TRAINING),
    "curve_fit, bounded": rivals.bounded_curve_fit,
    "lmfit, bounded": rivals.bounded_lmfit,
    "ours, LeastSquares": our_least_squares,
    "linear Avrami plot": rivals.avrami_plot,
}
# Compiling it takes longer than all else in a smoke run.
SLOW = {} if SMOKE else {"NumPyro NUTS, hierarchical": rivals.nuts}


def simulated(rng: np.random.Generator) -> None:
    """Print the table of the simulated alloys for each number of seen points."""
    family = alloy_family(PAST, rng=rng)
    past = Past(family.times[0], np.stack(family.fractions))
    for m in SEEN:
        seen = SEEN_UNTIL * np.arange(1, m + 1) / m
        family = alloy_family(NEW, rng=rng, times=seen)
        fractions, truth = np.stack(family.fractions), family.truth(NEW_TIMES)
        learned, learning = learn(METHODS | SLOW, past, seen)
        slow = {name: learned.pop(name) for name in SLOW if name in learned}
        results = race(learned, seen, fractions, ROUNDS) | race(slow, seen, fractions, 1)
        print(f"\n{m} points of {NEW} new alloys, {PAST} past ones")
        print(f"  {'method':42s}{'RMSE':>7s} {'x limit':>7s} {'coverage':>8s} {'interval score':>14s} "
              f"{'CPU ms a specimen':>17s} {'learning, s':>11s}")  # fmt: skip
        best = rmse(results[next(iter(METHODS))][0].mean, truth)
        for name, (prediction, cost) in results.items():
            error = rmse(prediction.mean, truth)
            print(
                f"  {name:42s}{error:7.4f} {error / best:7.3f} {band_scores(prediction, truth)} "
                f"{cost:17.3g} {learning[name]:11.2g}"
            )
        if slow:
            print(f"  NUTS: past and {NEW} new alloys in one chain, whose cost the new alloys share")
    print_our_times(past, rng)


def learn(methods: dict, past: Past, seen: ndarray) -> tuple[dict[str, Predict], dict[str, float]]:
    """Return each method's predictor and the CPU seconds that it took to learn; names those not installed."""
    predictors, seconds = {}, {}
    for name, build in methods.items():
        begin = time.process_time()
        try:
            predictors[name] = build(past, seen)
        except ImportError as error:
            print(f"{name}: left out, {error.name} is not installed")
            continue
        seconds[name] = time.process_time() - begin
    return predictors, seconds


def race(
    methods: dict[str, Predict], seen: ndarray, fractions: ndarray, rounds: int
) -> dict[str, tuple[Prediction, float]]:
    """Return each method's prediction and its median CPU ms a specimen; in every round all methods take a turn."""
    parts: dict[str, list[Prediction]] = {name: [] for name in methods}
    costs: dict[str, list[float]] = {name: [] for name in methods}
    for rows in np.array_split(fractions, rounds):
        for name, predict in methods.items():
            begin = time.process_time()
            parts[name].append(predict(seen, rows, NEW_TIMES))
            costs[name].append(1e3 * (time.process_time() - begin) / len(rows))
    joined = {
        name: Prediction(*(None if p[0] is None else np.concatenate(p) for p in zip(*predictions, strict=True)))
        for name, predictions in parts.items()
    }
    return {name: (joined[name], float(np.median(costs[name]))) for name in methods}


def rmse(mean: ndarray, truth: ndarray) -> float:
    """Return the root mean square error over all alloys and times."""
    return float(np.sqrt(np.mean((mean - truth) ** 2)))


def band_scores(prediction: Prediction, truth: ndarray) -> str:
    """Return coverage and interval score of the 90 % band as text."""
    if prediction.lower is None:
        return f"{'none':>8s} {'':14s}"
    lower, upper = np.nan_to_num(prediction.lower, nan=0.0), np.nan_to_num(prediction.upper, nan=1.0)
    miss = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
    return f"{np.mean(miss == 0):8.3f} {np.mean(upper - lower + 20 * miss):14.4f}"


def print_our_times(past: Past, rng: np.random.Generator) -> None:
    """Print what ours costs: learning, one specimen alone, and a specimen in a large batch."""
    seconds, prior = cpu(lambda: learn_prior(JMAK, as_curves(past.time, past.fraction)), 1)
    calibrator = Calibrator(JMAK, prior)
    print(f"\nours: learning {seconds:.2f} s CPU; ms a specimen:")
    print(f"  {'m':>2s} {'fit alone':>10s} | in a batch of {BATCH}: {'fit + intervals':>16s} {'band, 40 times':>15s}")
    for m in SEEN:
        seen = SEEN_UNTIL * np.arange(1, m + 1) / m
        batch = as_curves(seen, alloy_family(BATCH, rng=rng, times=seen).fractions)
        alone, _ = cpu(lambda batch=batch: calibrator.fit(batch[0].x, batch[0].y), 30)
        together, fits = cpu(lambda batch=batch: with_intervals(calibrator.fit_many(batch)), 3)
        band, _ = cpu(lambda fits=fits: fits.band(NEW_TIMES, 0.9), 3)
        print(f"  {m:2d} {1e3 * alone:10.3f} | {1e3 * together / BATCH:38.4f} {1e3 * band / BATCH:15.4f}")


def with_intervals(fits: Calibrations) -> Calibrations:
    """Return the fits after their intervals were computed."""
    fits.estimates()
    return fits


def cpu(call: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Return the median CPU seconds of a call and its last result."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        result = call()
        seconds.append(time.process_time() - begin)
    return float(np.median(seconds)), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=20240607, help="of the simulated alloys (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=("simulated", "real", "nist"),
                        default=("simulated", "real", "nist"), help="the tables to print (default: all)")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Many of the few-point fits without a prior do not converge; their bands are withheld and scored as such.
    warnings.filterwarnings("ignore", message=".*did not converge")
    if "simulated" in arguments.only:
        simulated(np.random.default_rng(arguments.seed))
    if "real" in arguments.only:
        for family in kinetics_real.families():
            kinetics_real.print_family(JMAK, family, REPEATS, LEFT_OUT)
    if "nist" in arguments.only:
        import kinetics_nist

        kinetics_nist.print_table()


if __name__ == "__main__":
    main()

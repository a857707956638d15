"""Predicting the rest of a new alloy's curve from its first points: ours, the limit and the rivals, in one run.

    python tests/benchmarks/kinetics.py [--seed 7] [--only simulated seeds times real nist]

X(t) = 1 - exp(-(k t)^n); (ln k, n) of an alloy ~ N((0, 2.5), [[.16, .10], [.10, .25]]) with n > .3; noise sd .02.
Past: 200 alloys at 30 times. New: 300 alloys seen at m times up to .6, scored at 40 times in (.6, 3] against the
noise-free truth. A band that is infinite or withheld counts as [0, 1]; the share of such alloys is printed. Times are
CPU times of one thread.
SCIMETA_SMOKE=1 shrinks the sizes, nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

import kinetics_real
import kinetics_rivals as rivals
import numpy as np
import torch
from kinetics_ours import our_least_squares, ours, print_times
from kinetics_rivals import NOISE, Past, Predict, Prediction, avrami
from numpy import ndarray

from scimeta.domains.kinetics import JMAK
from simulators.kinetics import ONE_KIND, alloy_family

SMOKE = "SCIMETA_SMOKE" in os.environ
PAST, NEW = (40, 20) if SMOKE else (200, 300)
BATCH = 500 if SMOKE else 10_000
SEEDS = 1 if SMOKE else 5  # of the fast methods
ROUNDS, TIMED = (2, 2) if SMOKE else (10, 7)  # of the race and of the table of times; medians are printed
META_TRAINING = 20 if SMOKE else rivals.META_TRAINING
REPEATS, LEFT_OUT = (2, 2) if SMOKE else (20, None)  # of the noise on real curves; curves left out in turn

SEEN_UNTIL = 0.6
SEEN = {m: SEEN_UNTIL * np.arange(1, m + 1) / m for m in (3, 5, 8)}  # number of points -> times
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
FAST = ("limit (exact posterior, true population)", "ours", "empirical Bayes, MAP + Laplace", "curve_fit, bounded")
# Compiling it takes longer than all else in a smoke run.
SLOW = {} if SMOKE else {"NumPyro NUTS, hierarchical": rivals.nuts}


def simulated(rng: np.random.Generator) -> None:
    """Print the table of all methods for each number of seen points."""
    past = past_alloys(rng)
    for m, seen in SEEN.items():
        fractions, truth = new_alloys(seen, rng)
        learned, learning = learn(METHODS | SLOW, past, seen)
        slow = {name: learned.pop(name) for name in SLOW if name in learned}
        results = race(learned, seen, fractions, ROUNDS) | race(slow, seen, fractions, 1)
        print(f"\n{m} points of {NEW} new alloys, {PAST} past ones")
        print(f"  {'method':42s}{'RMSE':>7s} {'x limit':>7s} {'coverage':>8s} {'interval score':>14s} {'withheld':>8s} "
              f"{'CPU ms a specimen':>17s} {'learning, s':>11s}")  # fmt: skip
        best = rmse(results[FAST[0]][0].mean, truth)
        for name, (prediction, cost) in results.items():
            error = rmse(prediction.mean, truth)
            bands = f"{'none':>8s} {'':23s}"
            if prediction.lower is not None:
                bands = "{:8.3f} {:14.4f} {:8.3f}".format(*band_scores(prediction, truth))
            print(
                f"  {name:42s}{error:7.4f} {error / best:7.3f} {bands} {cost:17.3g} {learning[name]:11.2g}", flush=True
            )
        if slow:
            print(f"  NUTS: past and {NEW} new alloys in one chain, whose cost the new alloys share")


def several_seeds(seed: int) -> None:
    """Print the fast methods' mean over seeds, with the least and the most where a target stands."""
    print(f"\n{SEEDS} seed{'s' * (SEEDS > 1)} from {seed}, {NEW} new and {PAST} past alloys each: mean (least to most)")
    print(f"  {'method':42s} {'m':>2s} {'RMSE x limit':>22s} {'coverage':>22s} {'interval score x limit':>24s}")
    scores: dict[tuple[str, int], list[ndarray]] = {}
    for one in range(seed, seed + SEEDS):
        rng = np.random.default_rng(one)
        past = past_alloys(rng)
        for m, seen in SEEN.items():
            fractions, truth = new_alloys(seen, rng)
            learned, _ = learn({name: METHODS[name] for name in FAST}, past, seen)
            for name, predict in learned.items():
                found = predict(seen, fractions, NEW_TIMES)
                scores.setdefault((name, m), []).append([rmse(found.mean, truth), *band_scores(found, truth)[:2]])
    for (name, m), rows in scores.items():
        unit = np.array([[error, 1.0, score] for error, _, score in scores[FAST[0], m]])
        cells = (f"{row.mean():.3f} ({row.min():.3f} to {row.max():.3f})" for row in (np.array(rows) / unit).T)
        print("  {:42s} {:2d} {:>22s} {:>22s} {:>24s}".format(name, m, *cells))


def short_pasts(seed: int) -> None:
    """Print ours at 3 points after a short past, as means over seeds."""
    print(f"\nours after a short past, 3 points, mean of {SEEDS} seed{'s' * (SEEDS > 1)} from {seed}")
    print(f"  {'past alloys':>11s} {'RMSE':>7s} {'coverage':>8s} {'interval score':>14s} {'withheld':>8s}")
    for past in (8, 20):
        rows = []
        for one in range(seed, seed + SEEDS):
            rng = np.random.default_rng(one)
            predict = ours(past_alloys(rng, past), SEEN[3])
            fractions, truth = new_alloys(SEEN[3], rng)
            found = predict(SEEN[3], fractions, NEW_TIMES)
            rows.append([rmse(found.mean, truth), *band_scores(found, truth)])
        print("  {:11d} {:7.4f} {:8.3f} {:14.4f} {:8.3f}".format(past, *np.mean(rows, 0)))


def past_alloys(rng: np.random.Generator, count: int = PAST) -> Past:
    """Return the past alloys of the simulated problem."""
    family = alloy_family(count, rng=rng)
    return Past(family.times[0], np.stack(family.fractions))


def new_alloys(seen: ndarray, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Return the measured fractions (alloys, m) and the truth (alloys, times) at the new times."""
    family = alloy_family(NEW, rng=rng, times=seen)
    return np.stack(family.fractions), family.truth(NEW_TIMES)


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


def band_scores(prediction: Prediction, truth: ndarray) -> tuple[float, float, float]:
    """Return coverage and interval score of the 90 % band, and the share of alloys that have none."""
    lower, upper = np.nan_to_num(prediction.lower, nan=0.0), np.nan_to_num(prediction.upper, nan=1.0)
    miss = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
    withheld = np.isnan(prediction.lower).any(1)
    return float(np.mean(miss == 0)), float(np.mean(upper - lower + 20 * miss)), float(withheld.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=20240607, help="of the simulated alloys (default %(default)s)")
    tables = ("simulated", "seeds", "times", "real", "nist")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, help="the tables to print (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Many of the few-point fits without a prior do not converge; their bands are withheld and scored as such.
    warnings.filterwarnings("ignore", message=".*did not converge")
    rng = np.random.default_rng(arguments.seed)
    if "simulated" in arguments.only:
        simulated(rng)
    if "seeds" in arguments.only:
        several_seeds(arguments.seed)
        short_pasts(arguments.seed)
    if "times" in arguments.only:
        print_times(past_alloys(rng), SEEN, NEW_TIMES, BATCH, TIMED, rng)
    if "real" in arguments.only:
        for family in kinetics_real.families():
            kinetics_real.print_family(JMAK, family, REPEATS, LEFT_OUT)
        kinetics_real.print_whole_curves()
        kinetics_real.print_integration()
        kinetics_real.print_published_table()
    if "nist" in arguments.only:
        import kinetics_nist

        kinetics_nist.print_table()


if __name__ == "__main__":
    main()

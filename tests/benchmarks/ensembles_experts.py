"""Mixtures of experts: their error over that of the best fixed weights, where experts have regions and where not.

    python tests/benchmarks/ensembles_experts.py [--only experts everything friction tables] [--seeds 10]
    python tests/benchmarks/ensembles_experts.py --only tables --data FOLDER [--sets concrete] [--jobs 2]

experts: X uniform in (-1, 1)^12; the truth is X b, b from 2 to .5, where x0 < 0, else 3 sin(6 x1); noise .3. A ridge
knows 600 other rows' part with x0 < 0, 8 neighbours on x1 the rest of them; both are frozen. everything: the same, but
both learn from all n rows. friction: log10 of the friction factor of a pipe, n = 200, experts Hagen-Poiseuille and
Blasius. The mean squared error against the noise-free truth at 4,000 new rows is divided by that of the convex weights
that are best there. tables: as ``ensembles_tables``, over the fixed weights that the same fit would have used; "raw"
is the network under the weakest penalty, not judged against anything. "asked" is the issue's target.

SCIMETA_SMOKE=1 shrinks the sizes, nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ensembles_tables import OUTER, SETS, candidates, table
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from scimeta.ensembles.experts import MixtureOfExpertsRegressor
from scimeta.ensembles.gate import Level, Settings, gate_path, mixed
from scimeta.ensembles.super_learner import SuperLearnerRegressor
from scimeta.ensembles.weights import simplex_weights

SMOKE = "SCIMETA_SMOKE" in os.environ
PARTS = ("experts", "everything", "friction", "tables")
SIZES = (100,) if SMOKE else (300, 1000)
NEW = 400 if SMOKE else 4000
OURS = "ours"
ASKED = {
    ("experts", 300): 0.33,
    ("experts", 1000): 0.15,
    ("everything", 300): 0.82,
    ("everything", 1000): 0.73,
    ("friction", 200): 0.002,
}


class Problem(NamedTuple):
    """Rows to learn from, (name, expert) pairs, and new rows with the noise-free truth."""

    X: ndarray
    y: ndarray
    experts: list[tuple[str, RegressorMixin]]
    new: ndarray
    truth: ndarray


def second(X: ndarray) -> ndarray:
    return X[:, 1:2]


def pieces(X: ndarray) -> ndarray:
    return np.where(X[:, 0] < 0, X @ np.linspace(2, 0.5, 12), 3 * np.sin(6 * X[:, 1]))


def regions(n: int, seed: int, frozen: bool) -> Problem:
    rng = np.random.default_rng(seed)
    X, other, new = (rng.uniform(-1, 1, (rows, 12)) for rows in (n, 600, NEW))
    y, known = (pieces(rows) + 0.3 * rng.standard_normal(len(rows)) for rows in (X, other))
    ridge, neighbours = Ridge(), make_pipeline(FunctionTransformer(second), KNeighborsRegressor(8))
    if frozen:
        left = other[:, 0] < 0
        ridge = FrozenEstimator(ridge.fit(other[left], known[left]))
        neighbours = FrozenEstimator(neighbours.fit(other[~left], known[~left]))
    return Problem(X, y, [("ridge", ridge), ("neighbours", neighbours)], new, pieces(new))


class Theory(RegressorMixin, BaseEstimator):
    """log10 of the friction factor c Re^p as a function of log10 Re; nothing to learn."""

    def __init__(self, factor: float = 64.0, power: float = -1.0) -> None:
        self.factor = factor
        self.power = power

    def fit(self, X: ndarray, y: ndarray) -> Theory:
        return self

    def predict(self, X: ndarray) -> ndarray:
        return np.log10(self.factor) + self.power * X[:, 0]


def flow(n: int, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    X, new = rng.uniform(2.5, 5.5, (n, 1)), rng.uniform(2.5, 5.5, (NEW, 1))

    def friction(log_re: ndarray) -> ndarray:
        re = 10 ** log_re[:, 0]
        turbulent = 1 / (1 + np.exp(-(re - 3000) / 250))
        return np.log10((1 - turbulent) * 64 / re + turbulent * 0.316 * re**-0.25)

    theories = [("Hagen-Poiseuille", Theory()), ("Blasius", Theory(0.316, -0.25))]
    return Problem(X, friction(X) + 0.02 * rng.standard_normal(n), theories, new, friction(new))


def committees(problem: Problem, seed: int) -> dict[str, RegressorMixin]:
    folds, experts = KFold(5, shuffle=True, random_state=seed), problem.experts
    trees = HistGradientBoostingRegressor(random_state=0)
    return {
        "fixed weights, learned": SuperLearnerRegressor(experts, "simplex", cv=folds),
        "scikit-learn's stack": StackingRegressor(experts, cv=folds),
        "the same, boosted trees over X too": StackingRegressor(experts, trees, cv=folds, passthrough=True),
        "ours, linear gate": MixtureOfExpertsRegressor(experts, "linear", cv=folds, random_state=seed),
        OURS: MixtureOfExpertsRegressor(experts, cv=folds, random_state=seed),
    }


def compare(part: str, n: int, make: Callable[[int, int], Problem], seeds: range) -> None:
    """Print every committee's error over that of the best fixed weights in hindsight."""
    ratios: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    for seed in seeds:
        problem = make(n, seed)
        for name, model in committees(problem, seed).items():
            began = time.process_time()
            model.fit(problem.X, problem.y)
            spent[name] = spent.get(name, 0.0) + time.process_time() - began
            if name == "fixed weights, learned":
                Z = model.level_one(problem.new)
                best = ((Z @ simplex_weights(Z, problem.truth) - problem.truth) ** 2).mean()
            ratios.setdefault(name, []).append(((model.predict(problem.new) - problem.truth) ** 2).mean() / best)
    print(f"\n{part}, n = {n}, {len(seeds)} seeds from {seeds.start}: error over the best fixed weights' in hindsight")
    print(f"  {'':<36} {'mean':>8} {'worst':>8} {'asked':>8} {'fit, CPU s':>11}")
    for name, values in ratios.items():
        asked = f"<= {ASKED[part, n]}" if name == OURS and (part, n) in ASKED else ""
        row = f"{np.mean(values):>8.4f} {max(values):>8.4f} {asked:>8} {spent[name] / len(seeds):>11.2f}"
        print(f"  {name:<36} {row}", flush=True)


def tables(folder: Path, sets: list[str], seed: int, jobs: int) -> None:
    """Print the gate's loss over that of the fixed weights of the same fit."""
    print("\ntables: loss over that of fixed weights, with the paired standard error   (asked of ours: at most 1.03)")
    for name in sets:
        X, y = table(name, folder)
        losses = {key: np.empty(len(y)) for key in (OURS, "fixed", "raw")}
        used, spent = [], 0.0
        for train, test in KFold(OUTER, shuffle=True, random_state=seed).split(X):
            inner = KFold(5, shuffle=True, random_state=seed)
            model = MixtureOfExpertsRegressor(candidates(), cv=inner, random_state=seed, n_jobs=jobs)
            began = time.perf_counter()
            model.fit(X[train], y[train])
            spent += time.perf_counter() - began
            Z, ones = model.level_one(X[test]), np.ones(len(train))
            level = Level(X[train], model.cross_fit_.predictions, y[train], ones, np.arange(len(train)))
            *_, raw = gate_path(level, "network", Settings(), seed)
            said = {OURS: model.predict(X[test]), "fixed": Z @ model.weights_, "raw": mixed(Z, raw(X[test]))}
            for key, values in said.items():
                losses[key][test] = (values - y[test]) ** 2
            used.append(model.gate_.kind)
        cells = "   ".join(f"{key} {_ratio(losses[key], losses['fixed'])}" for key in (OURS, "raw"))
        kinds = ", ".join(f"{used.count(kind)} {kind}" for kind in sorted(set(used)))
        print(f"  {name:<16} {cells}   {spent / len(used):.0f} s a fit; {kinds}", flush=True)


def _ratio(loss: ndarray, fixed: ndarray) -> str:
    gain = (loss - fixed) / fixed.mean()
    return f"{1 + gain.mean():.3f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, help="default: all, tables only with --data")
    parser.add_argument("--seeds", type=int, default=2 if SMOKE else 10)
    parser.add_argument("--seed", type=int, default=0, help="the first, and of the tables' folds (default %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the tables, see ensembles_tables.py")
    parser.add_argument("--sets", nargs="*", default=SETS, choices=SETS)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.seeds)
    parts = options.only or [part for part in PARTS if part != "tables" or options.data]
    if "tables" in parts and not options.data:
        parser.error("tables needs --data")
    for part in (part for part in ("experts", "everything") if part in parts):
        for n in SIZES:
            compare(part, n, lambda n, seed, frozen=part == "experts": regions(n, seed, frozen), seeds)
    if "friction" in parts:
        compare("friction", 50 if SMOKE else 200, flow, seeds)
    if "tables" in parts:
        tables(options.data, options.sets, options.seed, options.jobs)


if __name__ == "__main__":
    main()

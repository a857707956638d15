"""Mixtures of experts where experts have regions: their error over that of the best fixed weights in hindsight.

experts: X uniform in (-1, 1)^12; the truth is X b, b from 2 to .5, where x0 < 0, else 3 sin(6 x1); noise .3. A ridge
knows 600 other rows' part with x0 < 0, 8 neighbours on x1 the rest of them; both are frozen. everything: the same, but
both learn from all n rows. friction: log10 of the friction factor of a pipe, n = 200, experts Hagen-Poiseuille and
Blasius. The mean squared error against the noise-free truth at 4,000 new rows is divided by that of the convex weights
that are best there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ensembles_problems import SKLEARN, SMOKE, Asked, mean_error, plus_minus
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tqdm import tqdm

from scimeta.ensembles.experts import MixtureOfExpertsRegressor
from scimeta.ensembles.super_learner import SuperLearnerRegressor
from scimeta.ensembles.weights import simplex_weights

SIZES = (100,) if SMOKE else (300, 1000)
FLOWS = 50 if SMOKE else 200
NEW = 400 if SMOKE else 4000
FIXED, OURS = "fixed weights, learned", "ours: gated experts"
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


def main(part: str, seeds: range) -> list[Asked]:
    """Print "experts", "everything" or "friction"; return what was asked of it."""
    if part == "friction":
        return compare(part, FLOWS, flow, seeds)
    frozen = part == "experts"
    return [line for n in SIZES for line in compare(part, n, lambda n, seed: regions(n, seed, frozen), seeds)]


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
        FIXED: SuperLearnerRegressor(experts, "simplex", cv=folds),
        SKLEARN: StackingRegressor(experts, cv=folds),
        "the same, boosted trees over X too": StackingRegressor(experts, trees, cv=folds, passthrough=True),
        "ours, linear gate": MixtureOfExpertsRegressor(experts, "linear", cv=folds, random_state=seed),
        OURS: MixtureOfExpertsRegressor(experts, cv=folds, random_state=seed),
    }


def compare(part: str, n: int, make: Callable[[int, int], Problem], seeds: range) -> list[Asked]:
    """Print every committee's error over that of the best fixed weights in hindsight; all take turns, seed by seed."""
    ratios: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {}
    for seed in tqdm(seeds, desc=f"{part} {n}", delay=2, disable=None, leave=False):
        problem = make(n, seed)
        for name, model in committees(problem, seed).items():
            began = time.process_time()
            model.fit(problem.X, problem.y)
            spent.setdefault(name, []).append(time.process_time() - began)
            if name == FIXED:
                Z = model.level_one(problem.new)
                best = ((Z @ simplex_weights(Z, problem.truth) - problem.truth) ** 2).mean()
            ratios.setdefault(name, []).append(((model.predict(problem.new) - problem.truth) ** 2).mean() / best)
    print(f"\n{part}, n = {n}, {len(seeds)} seed(s) from {seeds.start}: error over the best fixed weights in hindsight")
    print(f"  {'':<36} {'mean':>19} {'median':>8} {'worst':>8} {'asked':>8} {'fit, CPU s':>11}")
    for name, values in ratios.items():
        asked = f"<= {ASKED[part, n]}" if name == OURS and (part, n) in ASKED else ""
        cells = f"{plus_minus(mean_error(values), 4):>19} {np.median(values):>8.4f} {max(values):>8.4f}"
        print(f"  {name:<36} {cells} {asked:>8} {np.median(spent[name]):>11.2f}", flush=True)
    if (part, n) not in ASKED:
        return []
    mean, asked = mean_error(ratios[OURS]), ASKED[part, n]
    what = f"{part}, n = {n}: gate over the best fixed weights"
    return [Asked(what, plus_minus(mean, 4), f"<= {asked}", mean[0] <= asked)]

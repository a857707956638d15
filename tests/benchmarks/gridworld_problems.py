"""The gridworld's benchmark problems: two cities, goals never seen, preferences, and how a policy is scored.

Four rooms on 13 x 13 cells (148 of them free) and a city of streets on 25 x 25 (287); north, south, west, east, stay;
discount .95; a reward of 1 on entering the goal, which ends nothing. Preferences: 8 places, weights N(0, I).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld import (
    Transitions,
    distances,
    evaluate_policy,
    normalized_regret,
    path_lengths,
    regret,
    success_weighted_path_length,
    transitions,
    uniform_policy,
    value_iteration,
)
from simulators import gridworld as sim

SMOKE = "SCIMETA_SMOKE" in os.environ
GAMMA = 0.95
GOALS = 4 if SMOKE else 40
PLACES, DRAWS = 8, 6 if SMOKE else 60
CITIES = ("rooms",) if SMOKE else ("rooms", "city")


class World(NamedTuple):
    """A city, as the simulator and as the domain have it, and steps (states, states) from row to column."""

    city: sim.City
    map: Transitions
    steps: ndarray

    @property
    def cells(self) -> int:
        return len(self.city)


class Preferences(NamedTuple):
    """Rewards of both signs.

    Attributes:
        features: (states, 8) indicators of the places.
        weights: (draws, 8).
        best: (draws, states) optimal values.
        walk: (draws, states) values of the random walk.
    """

    features: ndarray
    weights: ndarray
    best: ndarray
    walk: ndarray

    def regret(self, values: ndarray) -> ndarray:
        """Return (draws,) the normalised regret of values (draws, states), averaged over the starts."""
        return rounded(normalized_regret(values, self.best, self.walk).mean(1))


@cache
def world(name: str) -> World:
    city = {"rooms": sim.four_rooms, "city": sim.street_city}[name]()
    map = transitions(city.next, city.probability)
    return World(city, map, np.stack([distances(map, goal) for goal in range(len(city))], axis=1))


def goals_of(where: World, seed: int, past: int = 0) -> tuple[ndarray, ndarray]:
    """Return the goals held out, and as many past ones as asked, all different."""
    drawn = np.random.default_rng((seed, where.cells)).permutation(where.cells)
    return drawn[:GOALS], drawn[GOALS : GOALS + past]


def goal_scores(where: World, goals: ndarray, actions: ndarray) -> tuple[float, float]:
    """Return mean regret over all starts, and mean success weighted by path length over all but the goal itself.

    Args:
        where: the city.
        goals: (goals,) states.
        actions: (goals, states) a policy for each.
    """
    missed, paths = [], []
    for goal, policy in zip(goals, actions, strict=True):
        far = where.steps[:, goal]
        best = GAMMA ** np.maximum(far - 1, 0) / (1 - GAMMA)
        missed.append(regret(evaluate_policy(where.map, policy, np.eye(where.cells)[goal], GAMMA), best))
        paths.append(success_weighted_path_length(path_lengths(where.map, policy, goal), far)[far > 0])
    return float(rounded(np.mean(missed))), float(np.mean(paths))


def preferences(where: World, seed: int, weights: ndarray | None = None) -> Preferences:
    """Return 60 draws of rewards on 8 places; the places are of the seed, the weights too if none are given."""
    rng = np.random.default_rng((seed, where.cells, 1))
    features = np.eye(where.cells)[:, rng.choice(where.cells, PLACES, replace=False)]
    weights = rng.standard_normal((DRAWS, PLACES)) if weights is None else weights
    rewards = features @ weights.T
    best = value_iteration(where.map, rewards, GAMMA).values.T
    return Preferences(features, weights, best, walk_values(where, rewards))


def walk_values(where: World, rewards: ndarray) -> ndarray:
    """Return (draws, states) the random walk's values of rewards (states, draws)."""
    return evaluate_policy(where.map, uniform_policy(where.map), rewards, GAMMA).T


def values_of(where: World, policies: Sequence[ndarray], known: Preferences) -> ndarray:
    """Return (draws, states) the values of a policy for each draw."""
    rewards = known.features @ known.weights.T
    rows = zip(policies, rewards.T, strict=True)
    return np.stack([evaluate_policy(where.map, policy, reward, GAMMA) for policy, reward in rows])


def rounded(values: ndarray) -> ndarray:
    """Return the values, without a minus in front of what is rounding."""
    return np.round(values, 9) + 0.0


def timed(work: Callable) -> tuple[object, float]:
    """Return the result and the CPU seconds."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


def race(work: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Return each one's median CPU seconds; in every round all take a turn, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, one in work.items():
            spent[name].append(timed(one)[1])
    return {name: median(seconds[1:]) for name, seconds in spent.items()}

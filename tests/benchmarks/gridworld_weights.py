"""What a goal is worth, learned from a handful of rewards: with and without noise, a prior, and a choice of places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gridworld_problems import (
    CITIES,
    DRAWS,
    GAMMA,
    PLACES,
    SMOKE,
    Preferences,
    preferences,
    values_of,
    world,
)
from numpy import ndarray

from scimeta.calibration.family.prior import Prior
from scimeta.domains.gridworld import (
    basis_library,
    goal_prior,
    improve,
    learn_weights,
    next_place,
    policy_iteration,
)

PAST = 40  # goals that the prior is learned from
REWARDS = (2, 8) if SMOKE else (2, 4, 8, 16)
NOISES = (0.1,) if SMOKE else (0.05, 0.1, 0.3)
_TASTES = 2
_OWN = 0.2

Estimate = Callable[[ndarray, float, np.random.Generator], ndarray]
"""True weights (d,), noise and randomness -> learned weights (d,)."""


def main(seed: int) -> None:
    without_noise(seed)
    for population in ("independent", "alike"):
        with_noise("rooms", population, seed)


def without_noise(seed: int) -> None:
    """Print the regret after one reward of each place, no noise, over that of told weights."""
    print(f"\nWeights from {PLACES} rewards without noise, one a place; regret as in preferences, by GPI and 2 solves")
    print(f"  {'':<6} {'weights':<30} {'regret':>10} {'over told':>10} {'asked':>8} {'worst weight off by':>20}")
    for name in CITIES:
        known, plan = problem(name, None, seed)
        prior = goal_prior(np.random.default_rng((seed, 2)).standard_normal((PAST, PLACES)))
        rows = {
            "told": known.weights,
            "ours, without a prior": [learn_weights(np.eye(PLACES), w, sigma=0.0).mean for w in known.weights],
            "ours, prior of 40 goals": [learn_weights(np.eye(PLACES), w, prior, 0.0).mean for w in known.weights],
        }
        told = plan(known.weights)
        for method, weights in rows.items():
            missed = plan(np.asarray(weights))
            asked = "<= .001" if method != "told" else ""
            cells = f"{missed.mean():>10.6f} {(missed - told).mean():>10.6f} {asked:>8}"
            print(f"  {name:<6} {method:<30} {cells} {np.abs(weights - known.weights).max():>20.1e}", flush=True)


def with_noise(name: str, population: str, seed: int) -> None:
    """Print regret against the number of rewards, for each noise."""
    tell = {
        "independent": "weights N(0, I)",
        "alike": f"weights of one population: a mean, {_TASTES} tastes, and {_OWN} of each goal's own",
    }
    drawn = population_of(population, np.random.default_rng((seed, 3)), DRAWS + PAST)
    known, plan = problem(name, drawn[:DRAWS], seed)
    prior = goal_prior(drawn[DRAWS:])
    told = plan(known.weights)
    print(f"\nWeights from noisy rewards, {name}; {tell[population]}; prior of {PAST} past goals")
    print(f"  regret, mean (median) of {DRAWS} goals; weights told: {cell(told)}")
    heads = "".join(f" {f'{count} rewards':>17}" for count in REWARDS)
    print(f"  {'noise':>5} {'method':<42}{heads}")
    for noise in NOISES:
        for method, estimate in estimates(prior).items():
            rngs = [np.random.default_rng((seed, 4, i)) for i in range(DRAWS)]  # the same for every method
            rows = zip(known.weights, rngs, strict=True)
            found = np.array([estimate(w, noise, rng) for w, rng in rows])  # (draws, counts, d)
            cells = "".join(f" {cell(plan(found[:, i])):>17}" for i in range(len(REWARDS)))
            print(f"  {noise:>5} {method:<42}{cells}", flush=True)


def estimates(prior: Prior) -> dict[str, Estimate]:
    """Return method -> weights (counts, d) learned after each number of rewards, at indicators of places."""
    phi = np.eye(PLACES)

    def seen(places: ndarray, fit: Callable[[ndarray, ndarray, float], ndarray]) -> Estimate:
        def estimate(true: ndarray, noise: float, rng: np.random.Generator) -> ndarray:
            at = places(rng)
            rewards = true[at] + noise * rng.standard_normal(len(at))
            return np.array([fit(phi[at[:n]], rewards[:n], noise) for n in REWARDS])

        return estimate

    def drawn(rng: np.random.Generator) -> ndarray:
        return rng.integers(PLACES, size=REWARDS[-1])

    def in_turn(rng: np.random.Generator) -> ndarray:
        return np.resize(rng.permutation(PLACES), REWARDS[-1])

    def chosen(tell: bool) -> Estimate:
        def estimate(true: ndarray, noise: float, rng: np.random.Generator) -> ndarray:
            at, rewards, means = [], [], []
            sigma = noise if tell else None
            for count in range(1, REWARDS[-1] + 1):
                found = learn_weights(phi[at], np.array(rewards), prior, sigma)
                at.append(next_place(found, phi).state)
                rewards.append(true[at[-1]] + noise * rng.standard_normal())
                if count in REWARDS:
                    means.append(learn_weights(phi[at], np.array(rewards), prior, sigma).mean)
            return np.array(means)

        return estimate

    def least_squares(phi: ndarray, rewards: ndarray, _: float) -> ndarray:
        return np.linalg.lstsq(phi, rewards)[0]

    def with_prior(phi: ndarray, rewards: ndarray, noise: float) -> ndarray:
        return learn_weights(phi, rewards, prior, noise).mean

    return {
        "least squares, places drawn evenly": seen(drawn, least_squares),
        "least squares, places in turn": seen(in_turn, least_squares),
        "ours: prior, the same places in turn": seen(in_turn, with_prior),
        "ours: prior, most informative places": chosen(tell=True),
        "ours: the same, noise not told": chosen(tell=False),
    }


def problem(name: str, weights: ndarray | None, seed: int) -> tuple[Preferences, Callable[[ndarray], ndarray]]:
    """Return goals, and what turns weights (draws, 8) into regrets (draws,) by ours: GPI and two solves."""
    where = world(name)
    known = preferences(where, seed, weights)
    basis = basis_library(where.map, known.features, GAMMA)

    def plan(weights: ndarray) -> ndarray:
        start = improve(basis, weights).actions
        rows = zip(start, weights, strict=True)
        policies = [policy_iteration(where.map, known.features @ w, GAMMA, one, steps=2).actions for one, w in rows]
        return known.regret(values_of(where, policies, known))

    return known, plan


def population_of(kind: str, rng: np.random.Generator, number: int) -> ndarray:
    """Return (number, 8) weights of goals."""
    if kind == "independent":
        return rng.standard_normal((number, PLACES))
    mean, tastes = rng.standard_normal(PLACES), rng.standard_normal((_TASTES, PLACES))
    return mean + rng.standard_normal((number, _TASTES)) @ tastes + _OWN * rng.standard_normal((number, PLACES))


def cell(missed: ndarray) -> str:
    return f"{missed.mean():.5f} ({np.median(missed):.5f})"

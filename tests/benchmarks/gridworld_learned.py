"""What a cell is worth, learned over goals from how it looks; and successor features from pictures of new maps.

Looks: six kinds of cell, each with three looks, vectors of 16 numbers N(0, 1) and .3 N(0, 1) on top for each cell; a
goal gives each kind its worth, N(0, 1). Pictures: mazes, streets, rooms and scattered walls of 13 x 13 cells, each with
icy cells (a tenth), one-way cells (a tenth) and six places, drawn 8 x 8 pixels a cell with noise of 8 of 255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from gridworld_problems import GAMMA, SMOKE, timed
from numpy import ndarray
from scipy.ndimage import label

from scimeta import functional, meta_train
from scimeta.domains.gridworld import (
    PicturedMap,
    Rewards,
    Transitions,
    cell_features,
    evaluate_policy,
    goal_learner,
    improve,
    learn_deep_successors,
    library,
    policy_iteration,
    reward_tasks,
    transitions,
    uniform_policy,
)
from scimeta.models import networks
from simulators import gridworld as sim

KINDS, LOOKS, WIDTH, FEATURES = 6, 3, 16, 8
PAST_CITIES, PAST_GOALS = (2, 8) if SMOKE else (8, 64)
NEW_GOALS = 3 if SMOKE else 40
SHOTS, NOISE = 8, 0.1
OUTER = 10 if SMOKE else 600
STEPS = ("gauss_newton", "rates") if SMOKE else ("gauss_newton", "matrix", "rates", "gradient")
RIDGES = (0.1, 1.0, 10.0, 30.0)

LAYOUTS = ("maze", "streets", "rooms", "scattered")
PLACES, PIXELS, SIDE = 6, 8, 13  # arrows are drawn from 8 pixels a cell on
MAPS = 16 if SMOKE else 400
DEEP_STEPS = 5 if SMOKE else 800
NEW_MAPS = 1 if SMOKE else 5  # of each layout
MAP_GOALS, MAP_DRAWS = (2, 2) if SMOKE else (8, 20)
SEEDS = 1 if SMOKE else 5


class Dressed(NamedTuple):
    """A city, the kind (cells,) of its cells, and how they look (cells, 16)."""

    map: Transitions
    kinds: ndarray
    looks: ndarray


Estimate = Callable[[ndarray, ndarray], ndarray]
"""Cells seen and their rewards -> what every cell is thought to be worth, (cells,)."""


def meta(seed: int) -> None:
    """Print the regret on new goals after eight rewards, in a city known and in new ones."""
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((KINDS, LOOKS, WIDTH))
    cities = [sim.four_rooms(), *(sim.maze(13, 13, rng, loops=0.3) for _ in range(PAST_CITIES - 1))]
    past = [dress(city, prototypes, rng) for city in cities]
    rewards = [rng.standard_normal((PAST_GOALS, KINDS))[:, one.kinds] for one in past]
    learned = {step: timed(lambda step=step: learn(step, past, rewards)) for step in STEPS}
    streets = [sim.street_city(17, rng), sim.street_city(25, rng)]
    new = {"known": past[:1], "new": [dress(city, prototypes, rng) for city in streets]}
    print(f"\nNew goals from {SHOTS} rewards of cells drawn evenly, noise {NOISE}, features learned over")
    print(
        f"  {PAST_GOALS} past goals in each of {PAST_CITIES} cities; mean of V* - V over starts by that of V* - V_walk"
    )
    heads = "".join(f" {f'{where} city, mean (median)':>26}" for where in new)
    print(f"  {'weights from':<44}{heads} {'learning, s':>12}")
    found = {where: scores(ones, learned, np.random.default_rng((seed, 1))) for where, ones in new.items()}
    for method in found["known"]:
        pairs = [(np.mean(each[method]), np.median(each[method])) for each in found.values()]
        cells = "".join(f" {f'{mean:.3f} ({median:.3f})':>26}" for mean, median in pairs)
        seconds = next((f"{spent:.1f}" for step, (_, spent) in learned.items() if f"({step})" in method), "")
        print(f"  {method:<44}{cells} {seconds:>12}")
    lost = (1 - 1 / KINDS) ** SHOTS
    print(f"  {lost:.0%} of the kinds are not seen in {SHOTS} shots: whoever is told the kinds must guess them, too")


def dress(city: sim.City, prototypes: ndarray, rng: np.random.Generator) -> Dressed:
    kinds = rng.integers(KINDS, size=len(city))
    looks = prototypes[kinds, rng.integers(LOOKS, size=len(city))]
    return Dressed(transitions(city.next, city.probability), kinds, looks + 0.3 * rng.standard_normal(looks.shape))


def learn(step: str, past: list[Dressed], rewards: list[ndarray]) -> tuple[Callable, Callable]:
    """Return what turns looks into features, and looks and rewards seen into weights; learned over the past goals."""
    params, apply = functional(networks.mlp([WIDTH, 64, 64, FEATURES], generator=torch.Generator().manual_seed(0)))
    tasks = reward_tasks([one.looks for one in past], rewards, shots=SHOTS, noise=NOISE)
    learner = goal_learner(apply, params, FEATURES, step=step)
    generator = torch.Generator().manual_seed(0)
    trained = meta_train(learner, tasks, steps=OUTER, tasks_per_step=32, lr=4e-3, generator=generator)

    def features(looks: ndarray) -> ndarray:
        return cell_features(apply, trained.meta.init, torch.tensor(looks).float()).detach().double().numpy()

    def weights(looks: ndarray, seen: ndarray) -> ndarray:
        support = Rewards(torch.tensor(looks).float(), torch.tensor(seen).float())
        return trained.adapt(support)["weights"].detach().double().numpy()

    return features, weights


def scores(cities: list[Dressed], learned: dict, rng: np.random.Generator) -> dict[str, list[float]]:
    """Return method -> regret of each new goal; all plan by policy iteration, and the first of ours by GPI, too."""
    found: dict[str, list[float]] = {}
    for city in cities:
        features, weights = learned[STEPS[0]][0]
        phi = features(city.looks)
        directions = np.linalg.inv(np.linalg.cholesky(np.cov(phi.T))) @ rng.standard_normal((FEATURES, 20))
        policies = {str(i): plan(city.map, phi @ w) for i, w in enumerate(directions.T)}
        known = library(city.map, policies | {"walk": uniform_policy(city.map)}, phi, GAMMA)
        rows = estimates(city, learned)
        for true in rng.standard_normal((NEW_GOALS, KINDS))[:, city.kinds]:
            cells = rng.choice(len(true), SHOTS, replace=False)
            seen = true[cells] + NOISE * rng.standard_normal(SHOTS)
            routes = {name: plan(city.map, estimate(cells, seen)) for name, estimate in rows.items()}
            routes[f"ours: ANIL ({STEPS[0]}), by GPI"] = improve(known, weights(city.looks[cells], seen)).actions
            for name, missed in share_lost(city.map, routes, true).items():
                found.setdefault(name, []).append(missed)
    return found


def estimates(city: Dressed, learned: dict) -> dict[str, Estimate]:
    """Return method -> estimate of the worth of all cells."""
    kinds = np.eye(KINDS)[city.kinds]

    def ridge(phi: ndarray, strength: float) -> Estimate:
        def estimate(cells: ndarray, seen: ndarray) -> ndarray:
            gram = phi[cells].T @ phi[cells] + strength * np.eye(phi.shape[1])
            return phi @ np.linalg.solve(gram, phi[cells].T @ seen)

        return estimate

    def anil(step: str) -> Estimate:
        features, weights = learned[step][0]
        phi = features(city.looks)
        return lambda cells, seen: phi @ weights(city.looks[cells], seen)

    rows = {"told the kinds, Bayes": ridge(kinds, NOISE**2)}
    rows |= {"least squares on the looks": lambda cells, seen: city.looks @ np.linalg.lstsq(city.looks[cells], seen)[0]}
    rows |= {f"ridge on the looks, strength {strength:g}": ridge(city.looks, strength) for strength in RIDGES}
    return rows | {f"ours: ANIL ({step})": anil(step) for step in STEPS}


def deep(seed: int, seeds: int | None) -> None:
    """Print the regret of policies from a picture of a new map, and what they cost to learn."""
    print(f"\nSuccessor features from pictures of maps never seen; {MAPS} maps of {SIDE} x {SIDE} to learn from")
    print("  mean of V* - V over starts by that of V* - V_walk: mean (worst) over new maps and goals")
    heads = f"{'goals':>16} {'preferences':>16} {'exact GPI':>16} {'25 x 25, goals':>16} {'preferences':>16}"
    print(f"  {'seed':<6} {heads} {'CPU s':>7} {'wall s':>7}")
    totals = []
    for number in range(seed, seed + (seeds or SEEDS)):
        rng = np.random.default_rng((number, 7))
        maps = [pictured(layout_map(LAYOUTS[i % 4], SIDE, rng), rng) for i in range(MAPS)]
        generator = torch.Generator().manual_seed(number)
        given = {"gamma": GAMMA, "cell": PIXELS, "steps": DEEP_STEPS, "generator": generator}
        known, seconds = timed(lambda maps=maps, given=given: learn_deep_successors(maps, **given))
        same, large = (judged(known, side, rng) for side in (SIDE, 25))
        cells = " ".join(f"{f'{np.mean(part):.4f} ({np.max(part):.3f})':>16}" for part in (*same, *large[:2]))
        print(f"  {number:<6} {cells} {seconds:>7.0f} {known.history['seconds'].iloc[-1]:>7.0f}", flush=True)
        totals.append([np.mean(part) for part in (*same, *large[:2])])
    cells = " ".join(f"{np.mean(part):>16.4f}" for part in zip(*totals, strict=True))
    print(f"  {'mean':<6} {cells}   asked: goals <= .1")


def layout_map(layout: str, side: int, rng: np.random.Generator) -> sim.City:
    """Return a new map of a layout with ice, one-way cells and six places."""
    free = {
        "maze": lambda: sim.maze(side, side, rng, loops=rng.uniform(0, 0.3)).index >= 0,
        "streets": lambda: sim.street_city(side, rng, block=int(rng.integers(1, 4))).index >= 0,
        "rooms": lambda: sim.four_rooms(side).index >= 0,
        "scattered": lambda: connected(rng.random((side, side)) > rng.uniform(0.05, 0.35)),
    }[layout]()
    symbols, drawn = np.where(free, ".", "#").astype("<U1"), rng.random(free.shape)
    symbols[free & (drawn < 0.1)] = "~"
    arrows = free & (drawn > 0.9)
    symbols[arrows] = rng.choice(list("^v<>"), arrows.sum())
    city = sim.grid_city(symbols, name=layout)
    plain = np.flatnonzero(symbols[tuple(city.cells.T)] == ".")
    return city.with_places(dict(zip("ABCDEF", rng.choice(plain, PLACES, replace=False).tolist(), strict=True)))


def connected(free: ndarray) -> ndarray:
    parts, _ = label(free)
    return parts == 1 + np.bincount(parts[free])[1:].argmax()


def pictured(city: sim.City, rng: np.random.Generator) -> PicturedMap:
    picture = sim.draw(city, size=PIXELS).astype(np.float32)
    picture += 8 * rng.standard_normal(picture.shape, dtype=np.float32)
    return PicturedMap(picture, city.cells, transitions(city.next, city.probability), city.features())


def judged(known: object, side: int, rng: np.random.Generator) -> tuple[list[float], list[float], list[float]]:
    """Return regrets on new maps: of goals, of preferences over places, and of those by exact successor features."""
    goals, draws, exact = [], [], []
    settings = np.vstack([np.eye(PLACES), -np.ones(PLACES)])
    for layout in np.repeat(LAYOUTS, NEW_MAPS):
        one = pictured(layout_map(layout, side, rng), rng)
        map, phi = one.transitions, one.features
        cells = rng.choice(map.states, MAP_GOALS, replace=False)
        psi = known.features(one.picture, one.cells, cells)
        for column, cell in enumerate(cells, start=PLACES):
            policy = improve(psi, np.eye(psi.shape[3])[column]).actions
            goals += share_lost(map, {"": policy}, np.eye(map.states)[cell]).values()
        own = psi[[*range(PLACES), len(psi) - 1], ..., :PLACES]
        truth = library(map, {str(i): plan(map, phi @ w) for i, w in enumerate(settings)}, phi, GAMMA)
        for weights in rng.standard_normal((MAP_DRAWS, PLACES)):
            routes = {"own": improve(own, weights).actions, "exact": improve(truth, weights).actions}
            missed = share_lost(map, routes, phi @ weights)
            draws.append(missed["own"])
            exact.append(missed["exact"])
    return goals, draws, exact


def plan(map: Transitions, rewards: ndarray) -> ndarray:
    return policy_iteration(map, rewards, GAMMA).actions


def share_lost(map: Transitions, routes: dict[str, ndarray], rewards: ndarray) -> dict[str, float]:
    """Return for each policy the mean of V* - V over the starts, over that of V* - V_walk."""
    best = policy_iteration(map, rewards, GAMMA).values.mean()
    walk = evaluate_policy(map, uniform_policy(map), rewards, GAMMA).mean()
    values = {name: evaluate_policy(map, actions, rewards, GAMMA).mean() for name, actions in routes.items()}
    return {name: float((best - value) / (best - walk)) for name, value in values.items()}

"""One map, any goal: ours, planning, and what learns each goal anew, in one run.

    python tests/benchmarks/gridworld.py [--only told preferences weights samples size batch collection meta deep]
    python tests/benchmarks/gridworld.py --only told --seed 7

Problems as in ``gridworld_problems``. "asked" is what the issue set as a target, or measured of the same rival when it
was written. Times are CPU seconds; where several are compared they take turns in one process. Gymnasium (``batch``)
comes with the extra ``sim``; what is missing is named and left out. ``--public PATH`` adds to ``collection`` the usual
public implementation, from a clone of github.com/mike-gimelfarb/deep-successor-features-for-transfer.

A full run takes about 20 minutes on one core. SCIMETA_SMOKE=1 shrinks the sizes, nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gridworld_problems import (
    CITIES,
    GAMMA,
    GOALS,
    Preferences,
    World,
    goal_scores,
    goals_of,
    preferences,
    timed,
    values_of,
    world,
)
from numpy import ndarray

from scimeta.domains.gridworld import (
    Library,
    basis_library,
    improve,
    lazy_walk,
    library,
    policy_iteration,
    soften,
    uniform_policy,
    value_iteration,
)

PARTS = ("told", "preferences", "weights", "samples", "size", "batch", "collection", "meta", "deep")
PAST = 20  # goals whose policies a library holds
ASKED = {  # method -> regret, success weighted by path length
    "library: 20 goals' policies alone": (".33 to .85", ""),
    "ours: one lazy walk": ("<= .001", ">= .999"),
}


def told(seed: int) -> None:
    """Print what reaches goals never seen when their place is told."""
    print(f"\nGoals never seen, told where: {GOALS} goals, all starts, no sample on the new goal by any")
    heads = f"{'regret':>8} {'asked':>10} {'SPL':>7} {'asked':>8} {'learning, s':>12} {'ms a goal':>10}"
    print(f"  {'':<6} {'method':<42} {heads}")
    for name in CITIES:
        told_in(name, world(name), seed)


def told_in(name: str, where: World, seed: int) -> None:
    """Print the rows of one city."""
    held, past = goals_of(where, seed, PAST)
    rewards = np.eye(where.cells)[held]
    for method, make in told_libraries(where, past).items():
        known, seconds = timed(make)
        actions, spent = timed(lambda known=known: [improve(known, reward).actions for reward in rewards])
        print_told(name, method, goal_scores(where, held, actions), seconds, spent / GOALS)
    for method, planner in {"value iteration": value_iteration, "policy iteration": policy_iteration}.items():
        actions, spent = timed(lambda plan=planner: [plan(where.map, reward, GAMMA).actions for reward in rewards])
        print_told(name, f"{method}, each goal", goal_scores(where, held, actions), 0.0, spent / GOALS)


def told_libraries(where: World, past: ndarray) -> dict[str, Callable[[], Library]]:
    """Return name -> what makes a library."""

    def of_goals(epsilon: float, walk: bool) -> Library:
        best = value_iteration(where.map, np.eye(where.cells)[:, past], GAMMA).actions.T
        policies = {f"goal {g}": soften(p, epsilon, where.map.actions) for g, p in zip(past, best, strict=True)}
        policies |= {"walk": uniform_policy(where.map)} if walk else {}
        return library(where.map, policies, np.eye(where.cells), GAMMA)

    def alone(policy: ndarray) -> Library:
        return library(where.map, {"walk": policy}, np.eye(where.cells), GAMMA)

    return {
        f"library: {PAST} goals' policies alone": lambda: of_goals(0.0, walk=False),
        "library: the same, softened by .1": lambda: of_goals(0.1, walk=False),
        "library: the same and the random walk": lambda: of_goals(0.0, walk=True),
        "random walk's successor representation": lambda: alone(uniform_policy(where.map)),
        "ours: one lazy walk": lambda: alone(lazy_walk(where.map)),
    }


def print_told(city: str, method: str, scores: tuple[float, float], learning: float, each: float) -> None:
    asked = ASKED.get(method, ("", ""))
    cells = f"{scores[0]:>8.5f} {asked[0]:>10} {scores[1]:>7.4f} {asked[1]:>8} {learning:>12.2g} {1e3 * each:>10.2f}"
    print(f"  {city:<6} {method:<42} {cells}", flush=True)


def preference_table(seed: int) -> None:
    """Print regret for rewards of both signs on eight places."""
    print("\nPreferences of both signs over 8 places, told: (V* - V) / (V* - V_walk), mean over starts")
    print(f"  {'':<6} {'method':<42} {'mean':>8} {'median':>8} {'worst draw':>11} {'asked':>9} {'ms a draw':>10}")
    for name in CITIES:
        preferences_in(name, world(name), seed)


def preferences_in(name: str, where: World, seed: int) -> None:
    """Print the rows of one city."""
    known = preferences(where, seed)
    basis, learning = timed(lambda: basis_library(where.map, known.features, GAMMA))
    certain = basis_library(where.map, known.features, GAMMA, avoid=0.0, epsilon=0.0)
    each = np.stack([basis.values(weights) for weights in known.weights])  # (draws, policies, states)
    best_one = np.take_along_axis(each, each.mean(2).argmax(1)[:, None, None], 1)[:, 0]
    rows = {
        "best single policy of the basis": (best_one, 0.0),
        "GPI, 8 certain policies, one a place": improved(where, known, certain, 0),
    }
    rows |= {ours(solves): improved(where, known, basis, solves) for solves in (0, 1, 2)}
    plans, spent = timed(
        lambda: [value_iteration(where.map, known.features @ weights, GAMMA).actions for weights in known.weights]
    )
    rows["value iteration"] = values_of(where, plans, known), spent / len(plans)
    asked = {ours(0): "<= .005", ours(2): "<= .0005"}
    for method, (values, seconds) in rows.items():
        missed = known.regret(values)
        cells = f"{missed.mean():>8.5f} {np.median(missed):>8.5f} {missed.max():>11.5f} {asked.get(method, ''):>9}"
        print(f"  {name:<6} {method:<42} {cells} {1e3 * seconds:>10.2f}", flush=True)
    lead = rows[ours(0)][0] - each.max(1)
    held = (lead >= -1e-10 * np.abs(each).max()).mean()
    print(f"  {name:<6} basis learned in {learning:.2g} s; GPI at least the best of its library in {held:.2%} of draws")
    print(f"  {'':<6} and starts (asked: 100 %), furthest below by {max(-lead.min(), 0):.1e}")


def ours(solves: int) -> str:
    more = {0: "", 1: ", and 1 solve", 2: ", and 2 solves"}[solves]
    return f"ours: GPI over the basis{more}"


def improved(where: World, known: Preferences, basis: Library, solves: int) -> tuple[ndarray, float]:
    """Return (draws, states) the values of improved policies, and CPU seconds a draw."""

    def policy(weights: ndarray) -> ndarray:
        actions = improve(basis, weights).actions
        if not solves:
            return actions
        return policy_iteration(where.map, known.features @ weights, GAMMA, actions, steps=solves).actions

    policies, seconds = timed(lambda: [policy(weights) for weights in known.weights])
    return values_of(where, policies, known), seconds / len(policies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the tables to print (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of goals, draws and starts (default %(default)s)")
    parser.add_argument("--seeds", type=int, help="runs of collection and deep (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    parser.add_argument("--public", type=Path, help="a clone of the public implementation, for collection")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import gridworld_collection
    import gridworld_learned
    import gridworld_samples
    import gridworld_speed
    import gridworld_weights

    parts = {
        "told": lambda: told(options.seed),
        "preferences": lambda: preference_table(options.seed),
        "weights": lambda: gridworld_weights.main(options.seed),
        "samples": lambda: gridworld_samples.main(options.seed),
        "size": gridworld_speed.size,
        "batch": lambda: gridworld_speed.batch(options.seed),
        "collection": lambda: gridworld_collection.main(options.seed, options.seeds, options.public),
        "meta": lambda: gridworld_learned.meta(options.seed),
        "deep": lambda: gridworld_learned.deep(options.seed, options.seeds),
    }
    for name in PARTS:
        if name in options.only:
            parts[name]()


if __name__ == "__main__":
    main()

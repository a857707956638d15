"""Steps in a known city until a goal never seen is mastered, when the rewarded cell must be found first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from gridworld_problems import CITIES, GAMMA, GOALS, SMOKE, World, goal_scores, goals_of, timed, world
from numpy import ndarray

from scimeta import MetaLearner, Trained, maml, meta_train
from scimeta.domains.gridworld import (
    Learning,
    Sampler,
    Transitions,
    adapt_by_walking,
    adapt_exactly,
    dyna_q,
    expected_steps,
    goal_tasks,
    improve,
    lazy_walk,
    library,
    policy_reuse,
    q_learning,
    return_loss,
    search_route,
    tabular_policy,
    train_sampled,
    value_iteration,
    walk_loss,
)

ENOUGH = 0.95  # success weighted by path length of the greedy policy, mean over all starts
STARTS = 3 if SMOKE else 40
RUNS = 1 if SMOKE else 3  # of each goal, of what learns from scratch
PAST = 4 if SMOKE else 20  # goals that rivals are tuned on
LIMIT = 2000 if SMOKE else 200_000
GRIDS = {  # step size, exploration, optimistic start and the like, all combinations
    "Q-learning": {"rate": (1.0, 0.5), "epsilon": (1.0, 0.5, 0.1), "start": (0.01, 1.0, 20.0)},
    "Dyna-Q": {"planning": (50, 400), "epsilon": (1.0, 0.05), "start": (0.01, 20.0, 1000.0)},
    "policy reuse": {"epsilon": (1.0, 0.5), "start": (0.01, 1.0), "follow": (1.0, 0.5), "fade": (0.95, 0.9)},
}
RATES = {"exact": 1e12, "walks": 100.0}  # inner, tuned on past goals; so long an exact step is one of policy iteration
OUTER = {"exact": 2 if SMOKE else 60, "walks": 2 if SMOKE else 400}
INNER = 3 if SMOKE else 50  # steps of 20 walks of 100
ASKED = {
    "ours: search and GPI": {"rooms": "<= 75", "city": "<= 145"},
    "Q-learning": {"rooms": "11.6 k", "city": "42 k"},
    "Dyna-Q": {"rooms": "2.2 k", "city": "8.9 k"},
}


Plan = Callable[[ndarray], ndarray]
"""Goals (goals,) -> actions (goals, states)."""

Learn = Callable[..., Learning]
"""Transitions, goals, discount and settings -> what was learned, of all goals together."""


class Row(NamedTuple):
    """Steps (runs,) until competent, inf where it never was, CPU seconds a goal, and what else is to be said."""

    steps: ndarray
    seconds: float
    note: str = ""


def main(seed: int) -> None:
    """Print the steps on the new goal until competent, of all methods."""
    print(f"\nSteps on a new goal whose cell must be found, until the greedy policy's mean SPL is {ENOUGH} over all")
    print(f"  starts; {GOALS} goals, from {STARTS} starts of the search each, or in {RUNS} runs of other learners")
    heads = f"{'median':>8} {'mean':>9} {'asked':>7} {'got there':>10} {'s a goal':>9}"
    print(f"  {'':<6} {'method':<46} {heads}")
    for name in CITIES:
        where = world(name)
        for method, make in methods(where, seed).items():
            row = make()
            got = np.isfinite(row.steps)
            asked = next((a[name] for m, a in ASKED.items() if method.startswith(m)), "")
            mean = row.steps[got].mean() if got.any() else np.nan
            cells = f"{np.median(row.steps):>8.0f} {mean:>9.1f} {asked:>7} {got.mean():>10.1%} {row.seconds:>9.2g}"
            print(f"  {name:<6} {method:<46} {cells}   {row.note}", flush=True)


def methods(where: World, seed: int) -> dict[str, Callable[[], Row]]:
    """Return name -> what measures it."""
    rng = np.random.default_rng((seed, where.cells, 5))
    starts = rng.choice(where.cells, STARTS, replace=False)
    held, past = goals_of(where, seed, where.cells - GOALS)
    tuning, others = past[:PAST], past[PAST : 2 * PAST]
    cells = np.arange(where.cells)
    return {
        "bound, every cell a goal: a new cell each step": lambda: bound(where),
        "ours: search and GPI": lambda: searched(where, held, starts, gpi(where)),
        "ours: search and GPI, every cell a goal": lambda: searched(where, cells, starts, gpi(where)),
        "ours: nearest cell each time, every cell": lambda: searched(where, cells, starts, gpi(where), beam=1),
        "model-based planner, the same search": lambda: searched(where, held, starts, planner(where)),
        "the same, told where": lambda: Row(np.zeros(1), 0.0, "as ours: see told"),
        "exact policy gradient, one step, the same search": lambda: searched(
            where, held, starts, one_step(where, learner(where))
        ),
        "MAML-RL, exact gradients, the same search": lambda: searched(
            where, held, starts, one_step(where, exactly_trained(where, past, seed))
        ),
        "Dyna-Q, tuned": lambda: from_scratch(where, "Dyna-Q", dyna_q, held, tuning, seed),
        "Q-learning, tuned": lambda: from_scratch(where, "Q-learning", q_learning, held, tuning, seed),
        f"policy reuse, {PAST} policies, tuned": lambda: from_scratch(
            where, "policy reuse", reuse(where, others), held, tuning, seed
        ),
        "policy gradient, walks": lambda: walked(where, held, past, seed, "plain", trained=False),
        "MAML-RL, walks": lambda: walked(where, held, past, seed, "plain"),
        "MAML-RL, walks, DiCE": lambda: walked(where, held, past, seed, "dice"),
    }


def bound(where: World) -> Row:
    return Row(np.arange(1.0, where.cells + 1), 0.0, "of any search without a prior")


def gpi(where: World) -> Plan:
    known = library(where.map, {"lazy walk": lazy_walk(where.map)}, np.eye(where.cells), GAMMA)
    return lambda goals: np.stack([improve(known, weights).actions for weights in np.eye(where.cells)[goals]])


def planner(where: World) -> Plan:
    rewards = np.eye(where.cells)
    return lambda goals: np.stack([value_iteration(where.map, rewards[goal], GAMMA).actions for goal in goals])


def searched(where: World, goals: ndarray, starts: ndarray, plan: Plan, beam: int = 100) -> Row:
    """Return the steps at which the search enters each goal; the policy of what was found must then be competent."""
    between = expected_steps(where.map)
    rng = np.random.default_rng(8)
    routes, seconds = timed(lambda: [search_route(where.map, s, beam=beam, distances=between, rng=rng) for s in starts])
    actions, planning = timed(lambda: plan(goals))
    entered = np.full((STARTS, where.cells), np.inf)
    for row, route in zip(entered, routes, strict=True):
        np.minimum.at(row, route.walk[1:], np.arange(1.0, len(route.walk)))
    enough = np.array([goal_scores(where, [g], [a])[1] >= ENOUGH for g, a in zip(goals, actions, strict=True)])
    few = ""
    if len(goals) == where.cells:  # what only as many goals as elsewhere might have said, drawn anew again and again
        drawn = [np.median(entered[:, rng.choice(len(goals), GOALS, replace=False)]) for _ in range(1000)]
        few = "; median of {} goals, nine tenths of draws: {:.0f} to {:.0f}".format(
            GOALS, *np.quantile(drawn, [0.05, 0.95])
        )
    note = f"search {1e3 * seconds / STARTS:.0f} ms, new policy {1e3 * planning / len(goals):.2f} ms{few}"
    return Row(np.where(enough, entered[:, goals], np.inf).ravel(), seconds / STARTS + planning / len(goals), note)


def from_scratch(where: World, name: str, learn: Learn, held: ndarray, past: ndarray, seed: int) -> Row:
    """Return the steps of a learner at its best setting on past goals, by median, on the goals held out."""
    found, limit = {}, LIMIT
    grid = {key: values[: 1 if SMOKE else None] for key, values in GRIDS[name].items()}
    for setting in product(*grid.values()):
        needed = run(where, learn, past, limit, seed, dict(zip(grid, setting, strict=True)))
        found[setting] = np.median(needed)
        # No longer than twice what the best took for half of the goals: what has not got there by then is worse.
        limit = int(min(limit, 2 * min(found.values())))
    best = dict(zip(grid, min(found, key=found.get), strict=True))
    steps, seconds = timed(lambda: run(where, learn, np.repeat(held, RUNS), LIMIT, seed + 1, best))
    return Row(steps, seconds / len(steps), ", ".join(f"{key} {value:g}" for key, value in best.items()))


def run(where: World, learn: Learn, goals: ndarray, limit: int, seed: int, setting: dict[str, float]) -> ndarray:
    rng = np.random.default_rng((seed, 6))
    return learn(where.map, goals, GAMMA, steps=limit, enough=ENOUGH, rng=rng, **setting).needed


def reuse(where: World, past: ndarray) -> Learn:
    """Return policy reuse with the optimal policies of past goals."""
    policies = value_iteration(where.map, np.eye(where.cells)[:, past], GAMMA).actions.T

    def learn(map: Transitions, goals: ndarray, gamma: float, **setting: float) -> Learning:
        return policy_reuse(map, goals, policies, gamma, **setting)

    return learn


def learner(where: World) -> MetaLearner:
    """Return MAML on the exact return, of the random walk as the start."""
    return maml(return_loss(where.map, GAMMA), tabular_policy(where.map), lr=RATES["exact"])


def exactly_trained(where: World, past: ndarray, seed: int) -> Trained:
    generator = torch.Generator().manual_seed(seed)
    return meta_train(learner(where), goal_tasks(where.map, past), steps=OUTER["exact"], lr=0.01, generator=generator)


def one_step(where: World, start: MetaLearner | Trained) -> Plan:
    """Return the likeliest actions after one step of the exact gradient."""
    return lambda goals: adapt_exactly(start, where.map, goals)[0].action_values.argmax(2)


def walked(where: World, held: ndarray, past: ndarray, seed: int, estimator: str, *, trained: bool = True) -> Row:
    """Return the steps of a policy that walks, takes a step of its gradient, walks again, and so on."""
    sampler = Sampler(where.map, GAMMA, walks=20, steps=100)
    start = maml(walk_loss(GAMMA, estimator), tabular_policy(where.map, torch.float32), lr=RATES["walks"])
    generator, learning = torch.Generator().manual_seed(seed), 0.0
    if trained:
        start, learning = timed(
            lambda: train_sampled(start, sampler, past, steps=OUTER["walks"], lr=2e-3, generator=generator)
        )
    found, seconds = timed(
        lambda: adapt_by_walking(start, sampler, held, steps=INNER, enough=ENOUGH, generator=generator)
    )
    score = dict(zip(found.samples.tolist(), found.scores.mean(0), strict=True))
    after = ", ".join(f"{steps} steps {score[steps]:.2f}" for steps in (0, *found.samples[[1, -1]].tolist()))
    return Row(found.needed, seconds / len(held), f"mean SPL after {after}; trained in {learning:.0f} s")

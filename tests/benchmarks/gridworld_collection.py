"""The four-room object collection: 20 tasks of 20,000 steps, ours beside Q-learning and the public implementation.

Unless said otherwise the published settings: discount .95, random actions .15, step sizes .5, episodes of 200 steps;
weights of the three classes of objects uniform in [-1, 1], the goal worth 1. A task's return is all reward collected in
its steps.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gridworld_problems import SMOKE
from numpy import ndarray
from tqdm import tqdm

from scimeta.domains.gridworld import World, q_learning_each, sfql
from simulators import gridworld as sim

TASKS, LATE = (3, 1) if SMOKE else (20, 12)  # of the late ones the mean return is printed
STEPS = 500 if SMOKE else 20_000
SEEDS = 1 if SMOKE else 5
GAMMA, EPSILON, RATE, EPISODE = 0.95, 0.15, 0.5, 200
PUBLIC = "public: SFQL"
PUBLIC_Q = "public: Q-learning"
OURS = "ours: SFQL as published"
PLAIN = "ours: Q-learning as published"
TUNED = "ours: Q-learning, tuned: optimistic start"

Agent = Callable[[ndarray, int], ndarray]
"""Weights (tasks, 4), seed -> returns (tasks,)."""


class Row(NamedTuple):
    """Returns (seeds, tasks), and microseconds a step of each seed, environment included."""

    returns: ndarray
    each: ndarray

    @property
    def late(self) -> ndarray:
        """(seeds,) mean return of tasks 13 to 20."""
        return self.returns[:, LATE:].mean(1)


def main(seed: int, seeds: int | None, public: Path | None) -> None:
    """Print returns and times; all agents take turns, seed by seed, on the same tasks."""
    numbers = range(seed, seed + (seeds or SEEDS))
    agents = our_agents()
    agents |= public_agents(public)
    found: dict[str, list[tuple[ndarray, float]]] = {name: [] for name in agents}
    for number in tqdm(numbers, desc="collection", delay=2, disable=None, leave=False):
        weights = sim.collection_tasks(TASKS, np.random.default_rng(number))
        for name, agent in agents.items():
            begin = time.process_time()
            returns = agent(weights, number)
            found[name].append((returns, 1e6 * (time.process_time() - begin) / (TASKS * STEPS)))
    rows = {name: Row(*(np.array(part) for part in zip(*pairs, strict=True))) for name, pairs in found.items()}
    print(f"\nObject collection: {TASKS} tasks of {STEPS} steps, {len(numbers)} seeds; return a task, CPU us a step")
    heads = f"{'all tasks':>10} {f'{LATE + 1} to {TASKS}':>9} {'least, most of the seeds':>25} {'over Q':>7}"
    print(f"  {'agent':<44} {heads} {'over tuned Q':>13} {'us a step':>10}")
    for name, row in rows.items():
        tuned = row.late.mean() / rows[TUNED].late.mean()
        base = rows[PUBLIC_Q if name.startswith("public") else PLAIN].late.mean()
        spread = f"{row.late.min():.0f}, {row.late.max():.0f}"
        cells = f"{row.returns.mean():>10.0f} {row.late.mean():>9.0f} {spread:>25} {row.late.mean() / base:>7.2f}"
        print(f"  {name:<44} {cells} {tuned:>13.2f} {np.median(row.each):>10.2f}")
    print("  asked: SFQL over Q-learning 2.3 or more; 271 us a step of the public one when Q-learning took 27")
    if PUBLIC in rows:
        ratio = np.median(rows[PUBLIC].each / rows[OURS].each)
        print(f"  the public implementation's time a step over ours, as published: {ratio:.1f} (asked: 5 or more)")


def our_agents() -> dict[str, Agent]:
    rooms = sim.four_room_collection()
    after, feature, ends = rooms.tables()
    world = World(after, feature, np.eye(rooms.dim), ends, rooms.starts)
    given = {"steps": STEPS, "episode": EPISODE}

    def successors(epsilon: float = EPSILON, rate: float = RATE, **how: float) -> Agent:
        return lambda weights, seed: (
            sfql(
                world, weights, GAMMA, epsilon=epsilon, rate=rate, rng=np.random.default_rng(seed), **given, **how
            ).returns
        )

    def q(epsilon: float = EPSILON, start: float = 0.0) -> Agent:
        return lambda weights, seed: (
            q_learning_each(
                world, weights, GAMMA, epsilon=epsilon, rate=RATE, start=start, rng=np.random.default_rng(seed), **given
            ).returns
        )

    # Tuned by grid on four other sets of tasks, over random actions, step sizes and the optimism of the start.
    return {
        PLAIN: q(),
        TUNED: q(epsilon=0.0, start=0.1),
        OURS: successors(),
        "ours: SFQL, tuned: hopeful weights": successors(0.05, 1.0, first_weight=1.0, weight_rate=1.0),
        "ours: SFQL as published, told weights": successors(told=True),
    }


def public_agents(folder: Path | None) -> dict[str, Agent]:
    """Return the agents of the usual public implementation, unchanged; none where its folder is not given."""
    if folder is None:
        print("\npublic implementation: left out; --public names a clone of it")
        return {}
    source = folder / "source" if (folder / "source").is_dir() else folder
    sys.path.insert(0, str(source.resolve()))
    try:
        from agents.ql import QL
        from agents.sfql import SFQL
        from features.tabular import TabularSF
        from tasks.gridworld import Shapes
    except ImportError as error:
        print(f"\npublic implementation: left out, {error.name} was not found in {source}")
        return {}
    shared = {"gamma": GAMMA, "epsilon": EPSILON, "T": EPISODE, "print_ev": 10**9, "save_ev": 10**9, "encoding": None}
    symbols = {".": " ", "#": "X", "S": "_"}
    maze = np.array([[symbols.get(symbol, symbol) for symbol in row] for row in sim.COLLECTION.splitlines()])

    def run(make: Callable) -> Agent:
        def agent(weights: ndarray, seed: int) -> ndarray:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 (theirs draws from it)
            one, returns = make(), []
            one.reset()
            for row in weights:
                task = Shapes(maze=maze, shape_rewards=dict(zip("123", row[:3].tolist(), strict=True)))
                with contextlib.redirect_stdout(io.StringIO()):
                    one.train_on_task(task, STEPS)
                returns.append(one.reward)
            return np.array(returns, dtype=float)

        return agent

    sf = {"learning_rate": RATE, "learning_rate_w": RATE, "use_true_reward": False}
    return {
        PUBLIC_Q: run(lambda: QL(learning_rate=RATE, **shared)),
        PUBLIC: run(lambda: SFQL(TabularSF(**sf), **shared)),
    }

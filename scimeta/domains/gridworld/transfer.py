"""Task after task in one world, and Q-learning, which begins each of them anew.

What all tasks share is a ``World``; a task is a weight vector: the reward of a step is the features that it earns times
the weights. States are kept as they are met, so that a world of millions of states costs what is visited of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.agents import check_settings
from scimeta.domains.gridworld.transitions import check_gamma

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 100  # of the curve of each task
SPREAD = 0.01
"""What is not known yet is drawn from -0.01..0.01, so that ties differ."""


class World(NamedTuple):
    """What a sequence of tasks has in common: every action is certain, episodes begin somewhere and end somewhere.

    Attributes:
        next: (states, actions) whole numbers, the state that follows.
        feature: (states, actions) whole numbers, the row of ``rows`` that the step earns; -1 for none.
        rows: (kinds, d) features that a step can earn.
        ends: (states,) bool, True where an episode ends.
        starts: (starts,) states of which one begins each episode.
    """

    next: ndarray
    feature: ndarray
    rows: ndarray
    ends: ndarray
    starts: ndarray


@dataclass(frozen=True, eq=False)
class Transfer:
    """Rewards of a sequence of tasks.

    Attributes:
        name: of the agent.
        samples: (points,) steps made in a task.
        curve: (tasks, points) rewards collected in each task until then.
        weights: (tasks, d) as learned at the end of each task; as told, where they were.
        reused: (tasks,) share of the steps in which an earlier task's policy was the best.
        visited: states met in all tasks together.
    """

    name: str
    samples: ndarray
    curve: ndarray
    weights: ndarray
    reused: ndarray
    visited: int

    @property
    def returns(self) -> ndarray:
        """Return (tasks,) rewards collected in each task."""
        return self.curve[:, -1]

    def __str__(self) -> str:
        each = " ".join(f"{value:.0f}" for value in self.returns)
        return f"{self.name}: returns of {len(self.curve)} tasks of {self.samples[-1]} steps: {each}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the rewards collected in each task, one task after the other."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(8.0, 4.2), layout="constrained")
        tasks = len(self.curve)
        steps = self.samples[-1] * np.arange(tasks)[:, None] + np.append(self.samples, np.nan)
        curve = np.hstack([self.curve, np.full((tasks, 1), np.nan)])
        ax.plot(steps.ravel(), curve.ravel(), label=self.name)
        ax.set(xlabel="steps, task after task", ylabel="reward collected in the task")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax


def q_learning_each(
    world: World,
    weights: ndarray,
    gamma: float = 0.95,
    *,
    steps: int = 20_000,
    episode: int = 200,
    epsilon: float = 0.15,
    rate: float = 0.5,
    start: float = 0.0,
    rng: np.random.Generator,
) -> Transfer:
    """Return what Q-learning, which begins each task anew, collects in task after task.

    Args:
        start: first value of all actions, with a random part of 0.01; above 0 it is optimistic.
        world, weights, gamma, steps, episode, epsilon, rate, rng: as :func:`scimeta.domains.gridworld.sfql.sfql`.

    Raises:
        ValueError: as there.

    >>> corridor = World([[0, 1], [0, 2], [2, 2]], [[-1, -1], [-1, 0], [-1, -1]], [[1.0]], [False, False, True], [0])
    >>> print(q_learning_each(corridor, [[1.0], [2.0]], steps=100, start=1.0, rng=np.random.default_rng(0)))
    Q-learning: returns of 2 tasks of 100 steps: 45 88
    """
    gamma = check_gamma(gamma, "q_learning_each")
    world, weights = check_tasks("q_learning_each", world, weights, steps, episode)
    check_settings("q_learning_each", rate, epsilon, start)
    (after, feature, ends), actions, met, curves = look_up(world), world.next.shape[1], set(), []
    for true in weights:
        pay, table, total, collected = [*(world.rows @ true).tolist(), 0.0], {}, 0.0, []
        chance, other, starts = draws(world, steps, actions, rng)
        fresh = (start + rng.uniform(-SPREAD, SPREAD, (steps + 1, actions))).tolist()
        left = 0
        for step in range(steps):
            if not left:
                state, left = starts[step], episode
                here = table.setdefault(state, fresh[-1])
                if here is fresh[-1]:
                    fresh.pop()
            action = other[step] if chance[step] < epsilon else here.index(max(here))
            spot = state * actions + action
            state, reward = after[spot], pay[feature[spot]]
            there = table.get(state)
            if there is None:
                there = table[state] = fresh.pop()
            done = ends[state]
            here[action] += rate * (reward + (0.0 if done else gamma * max(there)) - here[action])
            here, total, left = there, total + reward, 0 if done else left - 1
            collected.append(total)
        met |= table.keys()
        curves.append(np.array(collected)[points(steps) - 1])
    return Transfer("Q-learning", points(steps), np.stack(curves), weights, np.zeros(len(weights)), len(met))


def look_up(world: World) -> tuple[memoryview, memoryview, memoryview]:
    """Return next, feature and ends for one look-up at a time, several times faster than an array's."""
    return tuple(memoryview(np.ascontiguousarray(part).ravel()) for part in (world.next, world.feature, world.ends))


def draws(world: World, steps: int, actions: int, rng: np.random.Generator) -> tuple[list, list, list]:
    """Return, for each step, a number in [0, 1), a random action and a start."""
    starts = world.starts[rng.integers(len(world.starts), size=steps)]
    return rng.random(steps).tolist(), rng.integers(actions, size=steps).tolist(), starts.tolist()


def points(steps: int) -> ndarray:
    """Return the steps at which a curve is kept."""
    return np.unique(np.linspace(0, steps, min(_POINTS, steps) + 1).round().astype(int))[1:]


def check_tasks(where: str, world: World, weights: ndarray, steps: int, episode: int) -> tuple[World, ndarray]:
    """Return the world's parts and the weights as arrays, or say, with the caller's name, what does not fit."""
    world = World(*(np.asarray(part) for part in world))
    shape, rows = world.next.shape, world.rows
    if len(shape) != 2 or 0 in shape or world.feature.shape != shape or world.ends.shape != shape[:1]:
        raise ValueError(
            f"{where}: the world's next and feature must be (states, actions) and ends (states,); got {shape}, "
            f"{world.feature.shape} and {world.ends.shape}"
        )
    for name, least, end in (("next", 0, shape[0]), ("feature", -1, len(rows)), ("starts", 0, shape[0])):
        part = getattr(world, name)
        if part.dtype.kind not in "iu" or not part.size or part.min() < least or part.max() >= end:
            raise ValueError(f"{where}: the world's {name} must be whole numbers in {least}..{end - 1}")
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or not len(weights) or rows.ndim != 2 or weights.shape[1] != rows.shape[1]:
        raise ValueError(f"{where}: weights must be (tasks, d) and rows (kinds, d); got {weights.shape}, {rows.shape}")
    rows = rows.astype(np.float64)
    if not (np.isfinite(weights).all() and np.isfinite(rows).all()):
        raise ValueError(f"{where}: weights and the world's rows must be finite")
    if steps < 1 or episode < 1 or steps != int(steps) or episode != int(episode):
        raise ValueError(f"{where}: steps and episode must be whole numbers, 1 or more; got {steps} and {episode}")
    return world._replace(rows=rows, ends=world.ends.astype(bool)), weights

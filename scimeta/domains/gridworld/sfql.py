"""Successor-feature Q-learning: task after task, the policies of all tasks so far choose together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.agents import check_settings
from scimeta.domains.gridworld.transfer import SPREAD, Transfer, World, check_tasks, draws, look_up, points
from scimeta.domains.gridworld.transitions import check_gamma

_CHUNK = 1024  # states that the table has room for at first


def sfql(
    world: World,
    weights: ndarray,
    gamma: float = 0.95,
    *,
    steps: int = 20_000,
    episode: int = 200,
    epsilon: float = 0.15,
    rate: float = 0.5,
    weight_rate: float = 0.5,
    first_weight: float | None = None,
    told: bool = False,
    rng: np.random.Generator,
) -> Transfer:
    """Return what successor-feature Q-learning with generalised policy improvement collects in task after task.

    It acts by the best of all tasks' policies so far, max_i psi_i(s, a) . w, and moves psi of the present task, and of
    the policy that it acted by, towards phi + gamma psi(s', a'). A new task's psi begins as its predecessor's.

    Args:
        world: what the tasks share.
        weights: (tasks, d) the true ones, of which the agent sees the rewards alone.
        gamma: the discount, at least 0 and below 1.
        steps: in each task.
        episode: most steps of an episode.
        epsilon: probability of a random action.
        rate: step size of psi, above 0 to 1.
        weight_rate: step size of the weights' regression on rewards, above 0 to 1.
        first_weight: value from which every weight is learned. None draws small ones, as published; the largest reward
            that may come makes the agent go and see, where small negative ones can keep it from ever moving.
        told: True to hand over the weights.
        rng: source of randomness.

    Raises:
        ValueError: a world whose parts do not fit together, weights of another length, a number outside its range.

    Reference: Barreto et al., Successor features for transfer in reinforcement learning, NeurIPS 2017.

    >>> corridor = World([[0, 1], [0, 2], [2, 2]], [[-1, -1], [-1, 0], [-1, -1]], [[1.0]], [False, False, True], [0])
    >>> print(sfql(corridor, [[1.0], [2.0]], steps=100, first_weight=1.0, rng=np.random.default_rng(0)))
    SFQL: returns of 2 tasks of 100 steps: 44 94
    """
    gamma = check_gamma(gamma, "sfql")
    world, weights = check_tasks("sfql", world, weights, steps, episode)
    check_settings("sfql", rate, epsilon)
    if not 0 < weight_rate <= 1:
        raise ValueError(f"sfql: weight_rate must be above 0 and at most 1; got {weight_rate}")
    if first_weight is not None and not np.isfinite(first_weight):
        raise ValueError(f"sfql: first_weight must be finite, or None for small ones; got {first_weight}")
    tasks, dim = weights.shape
    table = _Table((tasks, world.next.shape[1], dim), rate, gamma, rng)
    how = _How(steps, episode, epsilon, 0.0 if told else weight_rate)
    learned, curves, reused = [], [], []
    for task, true in enumerate(weights):
        if told:
            known = true.copy()
        else:
            known = rng.uniform(-SPREAD, SPREAD, dim) if first_weight is None else np.full(dim, float(first_weight))
        learned.append(known)
        table.inherit(task)
        curve, share = _one_task(world, table, true, learned, how, rng)
        curves.append(curve)
        reused.append(share)
    name = "SFQL, told the weights" if told else "SFQL"
    return Transfer(name, points(steps), np.stack(curves), np.stack(learned), np.array(reused), len(table.slots))


class _How(NamedTuple):
    """The settings of every task."""

    steps: int
    episode: int
    epsilon: float
    weight_rate: float


class _Table:
    """Successor features (states met, tasks, actions, d) of all tasks, in one array that grows with the states met."""

    def __init__(self, shape: tuple[int, int, int], rate: float, gamma: float, rng: np.random.Generator) -> None:
        tasks, self.actions, self.dim = shape
        self.stride, self.rng = tasks * self.actions, rng
        self.rate, self.keep, self.carry = rate, 1 - rate, rate * gamma
        self.slots: dict[int, int] = {}
        self.psi = self._more(_CHUNK)  # (room, tasks * actions, d)
        self.rows = self.psi.reshape(-1, self.dim)

    def _more(self, number: int) -> ndarray:
        return self.rng.uniform(-SPREAD, SPREAD, (number, self.stride, self.dim))

    def slot(self, state: int) -> int:
        """Return the row of a state, a new one where it is met for the first time."""
        found = self.slots.setdefault(state, len(self.slots))
        if found == len(self.psi):
            self.psi = np.concatenate([self.psi, self._more(len(self.psi))])
            self.rows = self.psi.reshape(-1, self.dim)
        return found

    def inherit(self, task: int) -> None:
        """Begin a task's successor features as those of the one before it."""
        if task:
            met, own = len(self.slots), task * self.actions
            self.psi[:met, own : own + self.actions] = self.psi[:met, own - self.actions : own]

    def best(self, slot: int, first: int, stop: int, w: ndarray) -> int:
        """Return which of the columns first..stop (policy * actions + action) is worth most, counted from first."""
        return int(self.psi[slot, first:stop].dot(w).argmax())

    def move(self, column: int, slot: int, phi: ndarray | None, next_column: int, next_slot: int) -> None:
        """Move psi towards phi + gamma psi(next), by phi alone where next_slot is -1; phi None is zero."""
        row = self.rows[slot * self.stride + column]
        ahead = self.carry * self.rows[next_slot * self.stride + next_column] if next_slot >= 0 else 0.0
        row *= self.keep
        row += ahead
        if phi is not None:
            row += self.rate * phi


def _one_task(
    world: World, table: _Table, true: ndarray, learned: list[ndarray], how: _How, rng: np.random.Generator
) -> tuple[ndarray, float]:
    """Return the curve of the last of the tasks and how often an earlier policy was the best; all learn in place.

    One product of psi(s', all tasks) and w serves both the update at this step and the choice at the next one.
    """
    task, actions, w, pay = len(learned) - 1, table.actions, learned[-1], (world.rows @ true).tolist()
    (after, feature, ends), (chance, other, starts) = look_up(world), draws(world, how.steps, actions, rng)
    own, every = task * actions, (task + 1) * actions
    total, borrowed, left, collected = 0.0, 0, 0, []
    for step in range(how.steps):
        if not left:
            state, left, best = starts[step], how.episode, -1
            slot = table.slot(state)
        if best < 0:
            best = table.best(slot, 0, every, w)
        policy, action = divmod(best, actions)
        if chance[step] < how.epsilon:
            action = other[step]
        spot = state * actions + action
        kind, state, before = feature[spot], after[spot], slot
        slot, done, phi = table.slot(state), ends[state], None
        if kind >= 0:
            phi = world.rows[kind]
            w += how.weight_rate * (pay[kind] - phi @ w) * phi
            total += pay[kind]
        best, ahead = table.best(slot, 0, every, w), -1 if done else slot
        table.move(own + action, before, phi, own + best % actions, ahead)
        if policy != task:  # the policy that it acted by learns, too, towards its own task's best action
            first, borrowed = policy * actions, borrowed + 1
            follow = table.best(slot, first, first + actions, learned[policy])
            table.move(first + action, before, phi, first + follow, ahead)
        if slot == before:
            best = -1  # what was just learned may have changed the choice
        left = 0 if done else left - 1
        collected.append(total)
    return np.array(collected)[points(how.steps) - 1], borrowed / how.steps

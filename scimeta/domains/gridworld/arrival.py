"""How many steps it takes to arrive: the fewest expected ones between any two states, exactly, on slippery maps too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import dijkstra, shortest_path
from scipy.sparse.linalg import SuperLU, splu

from scimeta.domains.gridworld.exact import check_state
from scimeta.domains.gridworld.transitions import Transitions, check_policy, policy_matrix

_MOST = 10_000  # cells, whose distances take 0.8 GB
_RARE = 1e-12  # a chance that counts as none
_BLOCK = 10_000_000  # numbers that the goals treated at once may take
_SWEEPS = 30  # between two exact evaluations, which cost as much
_GAIN = 1e-8  # steps that one better action may still save, so that seven digits are right


def expected_steps(transitions: Transitions) -> ndarray:
    """Return (states, states) the fewest expected steps from each state (row) to each (column).

    It is inf where no policy arrives surely; :func:`scimeta.domains.gridworld.scores.distances`, the fewest steps with
    luck, is finite there as long as some way leads. Breadth first where every action is certain; otherwise policy
    iteration with sparse solves, to seven digits. A chance of 1e-12 or less counts as none.

    Raises:
        ValueError: more than 10,000 states.

    Reference: Bertsekas, Tsitsiklis, Math. Oper. Res. 16, 580 (1991).

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> expected_steps(transitions([[0, 1], [1, 1]]))
    array([[ 0.,  1.],
           [inf,  0.]])
    """
    states, actions = transitions.states, transitions.actions
    if states > _MOST:
        raise ValueError(
            f"expected_steps: the distances between {states} cells would take {8e-9 * states**2:.0f} GB; search a part "
            f"of the city, of {_MOST} cells at most"
        )
    possible = transitions.probability > _RARE
    rows = np.broadcast_to(np.arange(states * actions).reshape(states, actions, 1), possible.shape)[possible]
    after = transitions.next[possible]
    if certain(transitions):
        graph = csr_array((np.ones(len(rows)), (rows // actions, after)), shape=(states, states))
        graph.sum_duplicates()
        return shortest_path(graph, unweighted=True)
    matrix = csr_array((transitions.probability[possible], (rows, after)), shape=(states * actions, states))
    matrix.sum_duplicates()
    size = max(1, _BLOCK // (states * actions))
    blocks = [np.arange(first, min(first + size, states)) for first in range(0, states, size)]
    return np.hstack([_fewest(matrix, goals) for goals in blocks])


class Arrival(NamedTuple):
    """Whether and when a policy arrives, from each state.

    Attributes:
        chance: (states,) probability that it ever does.
        steps: (states,) mean number of steps of the walks that do; inf where none does.
    """

    chance: ndarray
    steps: ndarray


def arrival(transitions: Transitions, policy: ndarray, goal: int | Sequence[int] | ndarray) -> Arrival:
    """Return how likely a policy is to arrive, and after how many steps: two solves with I - Q, exactly.

    Q are the steps between the states outside the goal from which the policy may arrive, b those that enter the goal:
    the chance is h = (I - Q)^-1 b and the mean number of steps, given arrival, (I - Q)^-1 h / h. A chance of 1e-12 or
    less counts as none.

    Args:
        transitions: of the map.
        policy: (states,) actions or (states, actions) probabilities.
        goal: state, or states any of which will do, such as the cells of a park.

    Raises:
        ValueError: no policy or no states of this map.

    Reference: Kemeny, Snell, Finite Markov Chains (1960), chapter III.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> slippery = transitions([[[1, 0]], [[1, 1]]], [[[0.25, 0.75]], [[1.0, 0.0]]])
    >>> arrival(slippery, np.array([0, 0]), goal=1)
    Arrival(chance=array([1., 1.]), steps=array([4., 0.]))
    """
    matrix = policy_matrix(transitions, check_policy(transitions, policy, "arrival"))
    goals = np.array([check_state(transitions, state, "arrival", "goal") for state in np.atleast_1d(goal)], dtype=int)
    chance, steps = np.zeros(transitions.states), np.full(transitions.states, np.inf)
    chance[goals], steps[goals] = 1.0, 0.0
    able = _reaching(matrix, goals)
    rows = np.flatnonzero(able & (chance == 0))
    if len(rows):
        inner = matrix[rows][:, rows]
        factor = _factor(inner)
        some = factor.solve(matrix[rows][:, goals].sum(axis=1)).clip(max=1.0)
        astray = matrix[rows][:, np.flatnonzero(~able)].sum(axis=1) > _RARE
        some[~_reaching(inner, np.flatnonzero(astray))] = 1.0  # whoever cannot stray surely arrives
        chance[rows] = some
        steps[rows] = np.divide(factor.solve(some), some, out=steps[rows], where=some > 0)
    return Arrival(chance, steps)


def certain(transitions: Transitions) -> bool:
    """Return whether every action has one outcome only, but for chances of 1e-12 or less.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> certain(transitions([[0, 1], [1, 1]]))
    True
    """
    return bool((transitions.probability.max(-1) > 1 - _RARE).all())


def _fewest(matrix: csr_array, goals: ndarray) -> ndarray:
    """Return (states, goals) the fewest expected steps, by policy iteration from a policy that surely arrives.

    Sweeps of value iteration between the evaluations only lower values that a policy reaches, so the next greedy policy
    arrives surely, too.
    """
    policy = _arriving(matrix, goals)
    values = _evaluated(matrix, policy, goals)
    pending = np.arange(len(goals))
    while len(pending):
        ahead, columns = values[:, pending], np.arange(len(pending))
        for _ in range(_SWEEPS):
            after = (matrix @ ahead).reshape(len(ahead), -1, len(pending))
            ahead = np.minimum(ahead, 1 + after.min(1))
            ahead[goals[pending], columns] = 0.0
        after = (matrix @ ahead).reshape(len(ahead), -1, len(pending))
        better = np.where(policy[:, pending] < 0, -1, after.argmin(1))
        exact = np.minimum(_evaluated(matrix, better, goals[pending]), values[:, pending])
        left = 1 + (matrix @ exact).reshape(after.shape).min(1)
        left[goals[pending], columns] = 0.0
        reached = np.where(np.isfinite(exact), exact, 0.0)
        gain = reached - np.where(np.isfinite(exact), left, 0.0)
        stuck = (exact >= (1 - 1e-12) * values[:, pending]).all(0)  # what is left to gain is rounding
        values[:, pending] = exact
        pending = pending[~(stuck | (gain <= _GAIN).all(0))]
    return values


def _arriving(matrix: csr_array, goals: ndarray) -> ndarray:
    """Return (states, goals) actions by which each state surely arrives; -1 where no policy does.

    The states that surely arrive are the largest set from which the goal can be reached by actions that never leave it.
    """
    goal = np.arange(matrix.shape[1])[:, None] == goals
    sure = np.ones_like(goal)
    while True:
        policy = np.where(goal, 0, -1)
        stays = (matrix @ (~sure).astype(float) == 0).reshape(len(goal), -1, len(goals))
        new, reached = goal, goal.copy()
        while new.any():
            ahead = np.where(stays, (matrix @ new.astype(float)).reshape(stays.shape), 0.0)
            new = (ahead.max(1) > 0) & ~reached
            policy[new] = ahead.argmax(1)[new]
            reached |= new
        if (reached == sure).all():
            return policy
        sure = reached


def _evaluated(matrix: csr_array, policy: ndarray, goals: ndarray) -> ndarray:
    """Return (states, goals) the expected steps of policies that surely arrive; inf where the policy is -1."""
    states = matrix.shape[1]
    steps = np.full(policy.shape, np.inf)
    for column, goal in enumerate(goals):
        steps[goal, column] = 0.0
        rows = np.flatnonzero((policy[:, column] >= 0) & (np.arange(states) != goal))
        if len(rows):
            chosen = matrix[rows * (matrix.shape[0] // states) + policy[rows, column]][:, rows]
            steps[rows, column] = _factor(chosen).solve(np.ones(len(rows)))
    return steps


def _factor(inner: csr_array) -> SuperLU:
    """Return the factors of I - Q, an M-matrix: no pivots off the diagonal are needed."""
    system = (eye_array(inner.shape[0]) - inner).tocsc()
    return splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _reaching(matrix: csr_array, targets: ndarray) -> ndarray:
    """Return (states,) whether steps of a chance above 1e-12 can lead to any of the targets, which do."""
    if not len(targets):
        return np.zeros(matrix.shape[0], dtype=bool)
    possible = csr_array(matrix.T > _RARE, dtype=float)  # backwards
    return np.isfinite(dijkstra(possible, indices=targets, unweighted=True, min_only=True))

"""How good a policy is on a map: regret, path lengths and the route that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from scimeta.domains.gridworld.exact import check_state
from scimeta.domains.gridworld.transitions import Transitions, check_policy


def regret(values: ndarray, best: ndarray) -> ndarray:
    """Return 1 - V / V*, the share of what could be gained that a policy misses; the arguments broadcast.

    It is 0 where nothing can be gained, as where no goal can be reached.

    Args:
        values: the policy's values.
        best: the optimal ones, nowhere negative; mixed signs need :func:`normalized_regret`.

    Raises:
        ValueError: negative or non-finite optimal values, or values that are not finite.

    >>> regret(np.array([0.5, 0.0]), np.array([1.0, 0.0]))
    array([0.5, 0. ])
    """
    values, best = _finite("regret", values), _finite("regret", best)
    if (best < 0).any():
        raise ValueError("regret: an optimal value is negative, so that V / V* says nothing; use normalized_regret")
    return _share(best - values, best)


def normalized_regret(values: ndarray, best: ndarray, reference: ndarray) -> ndarray:
    """Return (V* - V) / (V* - V_reference): 0 for the best policy, 1 for the reference, usually the random walk.

    It is 0 where the reference is the best already. The arguments broadcast.

    >>> normalized_regret(np.array([0.5]), np.array([1.0]), np.array([-1.0]))
    array([0.25])
    """
    values, best, reference = (_finite("normalized_regret", each) for each in (values, best, reference))
    possible = best - reference
    rounding = 1e-12 * np.maximum(np.abs(best), np.abs(reference))
    return _share(best - values, np.where(possible > rounding, possible, 0))


def distances(transitions: Transitions, goal: int) -> ndarray:
    """Return (states,) the fewest steps in which each state can reach the goal, inf where it cannot.

    Where steps are uncertain these are the fewest with luck on every step.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> distances(transitions([[1, 0], [2, 0], [2, 2]]), goal=1)
    array([ 1.,  0., inf])
    """
    goal = check_state(transitions, goal, "distances", "goal")
    keep = transitions.probability > 0
    start = np.broadcast_to(np.arange(transitions.states)[:, None, None], keep.shape)[keep]
    ends = (transitions.next[keep], start)  # backwards: one search from the goal serves all states
    edges = csr_array((np.ones(len(start)), ends), shape=(transitions.states,) * 2)
    return dijkstra(edges, indices=goal, unweighted=True)


def path_lengths(
    transitions: Transitions,
    policy: ndarray,
    goal: int,
    *,
    rng: np.random.Generator | None = None,
    limit: int | None = None,
) -> ndarray:
    """Return (states,) the steps that a policy takes to the goal from each state, inf where it does not get there.

    Args:
        transitions: of the map.
        policy: (states,) actions or (states, actions) probabilities.
        goal: state.
        rng: draws one walk from each state; may be None where the policy and its steps are certain.
        limit: most steps of a drawn walk; ten times the number of states if None.

    Raises:
        ValueError: no policy or no state of this map, or chance without a generator.
    """
    goal = check_state(transitions, goal, "path_lengths", "goal")
    policy = check_policy(transitions, policy, "path_lengths")
    if rng is None:
        after, chance = _likeliest(transitions, policy)
        if not np.allclose(chance, 1, rtol=0, atol=1e-9):
            raise ValueError(
                "path_lengths: the policy or its steps are uncertain; pass rng to draw a walk from each state"
            )
        certain = Transitions(after[:, None, None], np.ones((transitions.states, 1, 1)))
        return distances(certain, goal)
    place = np.arange(transitions.states)
    steps = np.where(place == goal, 0.0, np.inf)
    for step in range(1, (10 * transitions.states if limit is None else limit) + 1):
        if np.isfinite(steps).all():
            break
        place = _draw(transitions, policy, place, rng)
        steps[(place == goal) & np.isinf(steps)] = step
    return steps


def success_weighted_path_length(steps: ndarray, shortest: ndarray) -> ndarray:
    """Return success x shortest / max(steps, shortest) of each walk; their mean is the score of a policy.

    Args:
        steps: taken to the goal; inf, or any number that is not finite, where the goal was not reached.
        shortest: fewest steps to the goal, broadcast with steps. A walk that starts at its goal counts 1.

    Raises:
        ValueError: a goal that cannot be reached, or negative steps.

    Reference: Anderson et al., On Evaluation of Embodied Navigation Agents, arXiv:1807.06757 (2018).

    >>> success_weighted_path_length(np.array([4.0, 5.0, np.inf]), np.array([4.0, 4.0, 4.0]))
    array([1. , 0.8, 0. ])
    """
    steps, shortest = np.broadcast_arrays(np.asarray(steps, dtype=float), np.asarray(shortest, dtype=float))
    if not np.isfinite(shortest).all():
        raise ValueError(
            f"success_weighted_path_length: {np.sum(~np.isfinite(shortest))} starts cannot reach the goal at all; "
            "leave them out"
        )
    success = np.isfinite(steps)
    if (shortest < 0).any() or (steps[success] < 0).any():
        raise ValueError("success_weighted_path_length: steps must not be negative")
    taken = np.maximum(steps, shortest)
    return np.divide(shortest, taken, out=success.astype(float), where=success & (taken > 0))


def route(
    transitions: Transitions,
    policy: ndarray,
    start: int,
    goal: int | Sequence[int] | ndarray,
    *,
    rng: np.random.Generator | None = None,
) -> list[int] | None:
    """Return the states from start to goal, both included, along a policy; None where it does not lead there.

    Args:
        transitions: of the map.
        policy: (states,) actions or (states, actions) probabilities.
        start: state.
        goal: state, or states any of which will do, such as the cells of a park.
        rng: draws actions and outcomes, at most ten times as many as there are states; None takes the likeliest ones.

    Raises:
        ValueError: no policy or no states of this map.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> street = transitions([[0, 1], [0, 2], [1, 2]])
    >>> route(street, np.array([1, 1, 1]), start=0, goal=2)
    [0, 1, 2]
    >>> route(street, np.array([1, 1, 1]), start=0, goal=[2, 1])
    [0, 1]
    >>> print(route(street, np.array([0, 0, 0]), start=0, goal=2))
    None
    """
    policy = check_policy(transitions, policy, "route")
    place = check_state(transitions, start, "route", "start")
    goals = {check_state(transitions, goal, "route", "goal") for goal in np.atleast_1d(goal)}
    after, _ = _likeliest(transitions, policy)
    states = [place]
    for _ in range(transitions.states if rng is None else 10 * transitions.states):
        if place in goals:
            return states
        place = int(after[place] if rng is None else _draw(transitions, policy, np.array([place]), rng)[0])
        states.append(place)
    return states if place in goals else None


def describe_route(
    transitions: Transitions, states: list[int] | None, start: int, goal: int | Sequence[int] | ndarray
) -> str:
    """Return a route in words; for None, whether the goal cannot be reached at all or only the policy fails to.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> describe_route(transitions([[0], [0]]), None, start=0, goal=1)
    'No route: state 1 cannot be reached from state 0.'
    """
    if states is not None:
        return f"{len(states) - 1} steps from state {start} to state {states[-1]}: {' '.join(map(str, states))}"
    start, goals = check_state(transitions, start, "describe_route", "start"), np.atleast_1d(goal)
    fewest = min(distances(transitions, goal)[start] for goal in goals)
    name = f"state {' or '.join(map(str, goals))}"
    if np.isinf(fewest):
        return f"No route: {name} cannot be reached from state {start}."
    return f"No route: the policy does not lead from state {start} to {name}, {fewest:.0f} steps away."


def _likeliest(transitions: Transitions, policy: ndarray) -> tuple[ndarray, ndarray]:
    """Return (states,) the likeliest outcome of the likeliest action, and the chance of all that leads there."""
    rows = np.arange(transitions.states)
    actions = policy.argmax(axis=1)
    outcome = transitions.probability[rows, actions].argmax(axis=1)
    after = transitions.next[rows, actions, outcome]
    chance = policy[..., None] * transitions.probability
    return after, (chance * (transitions.next == after[:, None, None])).sum(axis=(1, 2))


def _draw(transitions: Transitions, policy: ndarray, place: ndarray, rng: np.random.Generator) -> ndarray:
    """Return one drawn next state for each of the (walks,) places."""
    actions, outcomes = transitions.next.shape[1:]
    chance = (policy[place][..., None] * transitions.probability[place]).reshape(len(place), -1)
    total = chance.cumsum(axis=1)
    pick = (total <= rng.random((len(place), 1)) * total[:, -1:]).sum(axis=1)
    return transitions.next[place].reshape(-1, actions * outcomes)[np.arange(len(place)), pick]


def _share(missed: ndarray, possible: ndarray) -> ndarray:
    """Return missed / possible, 0 where nothing is possible."""
    missed, possible = np.broadcast_arrays(missed, possible)
    return np.divide(missed, possible, out=np.zeros(missed.shape), where=possible > 0)


def _finite(where: str, values: ndarray) -> ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: values must be finite; got {np.sum(~np.isfinite(values))} that are not")
    return values

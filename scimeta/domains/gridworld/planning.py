"""Planning with a known map and known rewards: the limit that transfer is measured against."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.exact import Per, check_rewards, factorize, mean_rewards
from scimeta.domains.gridworld.transitions import Transitions, check_gamma, check_policy, expect, uniform_policy

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Plan:
    """A policy for given rewards, and how far from the best it can be.

    Attributes:
        values: (states,), or (states, rewards) where several rewards were planned for; the optimal values after
            value iteration, the policy's after policy iteration.
        actions: as values, the policy.
        steps: sweeps or policies improved.
        error: no value is further than this from the optimal one.
        converged: False where the steps ran out first.
    """

    values: ndarray
    actions: ndarray
    steps: int
    error: float
    converged: bool

    def __str__(self) -> str:
        end = "converged" if self.converged else "NOT converged"
        return (
            f"Plan for {len(self.values)} states: {end} after {self.steps} steps, values {self.values.min():.6g} to "
            f"{self.values.max():.6g}, each within {self.error:.1e} of the best"
        )


def value_iteration(
    transitions: Transitions,
    rewards: ndarray,
    gamma: float,
    *,
    per: Per | None = None,
    tolerance: float = 1e-12,
    steps: int = 100_000,
) -> Plan:
    """Return the optimal values, V = max_a E[r + gamma V(s')], and a policy that reaches them.

    States so far from any reward that their values lie below the tolerance get no route; policy iteration serves there,
    and :func:`scimeta.domains.gridworld.scores.distances` for a single goal.

    Args:
        transitions: of the map.
        rewards: for the state entered, (states,) or (states, rewards): several rewards are planned for at once; or
            R(s, a) for each action, (states, actions), with per "action".
        gamma: the discount, at least 0 and below 1.
        per: what the rewards are for, "state" (entered) or "action"; None refuses a table that could be either, with as
            many columns as actions.
        tolerance: the sweeps end when no value can be further from the best than this times the largest one.
        steps: most sweeps.

    Raises:
        ValueError: gamma outside [0, 1), rewards of another shape or not finite, steps below 1, a negative tolerance.

    Reference: Puterman, Markov Decision Processes (1994), section 6.3.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> plan = value_iteration(transitions([[0, 1], [0, 1]]), np.array([0.0, 1.0]), 0.5)
    >>> plan.actions, plan.values.round(9)
    (array([1, 1]), array([2., 2.]))

    The two states of pymdptoolbox's manual, P(s, a, s') and R(s, a):

    >>> chance = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.8, 0.2], [0.1, 0.9]]])
    >>> manual = transitions(np.broadcast_to(np.arange(2), chance.shape), chance)
    >>> value_iteration(manual, np.array([[5.0, 10.0], [-1.0, 2.0]]), 0.9, per="action").values.round(3)
    array([42.442, 36.047])
    """
    gamma = check_gamma(gamma, "value_iteration")
    rewards = check_rewards(transitions, rewards, per, "value_iteration")
    if steps < 1:
        raise ValueError(f"value_iteration: steps must be 1 or more; got {steps}")
    if not tolerance >= 0:
        raise ValueError(f"value_iteration: tolerance must be 0 or more; got {tolerance}")
    gain = mean_rewards(transitions, rewards, per)
    values, left, converged, step = np.zeros_like(gain[:, 0]), np.inf, False, 0
    # Rounding alone moves each sweep by a few units in the last place; asking for less would never end.
    tolerance = max(tolerance, 2 * np.finfo(float).eps / (1 - gamma))
    while not converged and step < steps:
        new = (gain + expect(transitions, gamma * values)).max(axis=1)
        left = gamma / (1 - gamma) * np.abs(new - values).max()
        converged, step, values = bool(left <= tolerance * np.abs(new).max()), step + 1, new
    _warn_if_short("value_iteration", converged, step)
    actions = greedy(gain + expect(transitions, gamma * values))
    return Plan(values, actions, step, float(left), converged)


def policy_iteration(
    transitions: Transitions,
    rewards: ndarray,
    gamma: float,
    start: ndarray | None = None,
    *,
    per: Per | None = None,
    steps: int | None = None,
) -> Plan:
    """Return the policy after so many improvements of a start; each is one sparse solve and a greedy choice.

    The policy never gets worse in any state. A start near the best, such as generalised policy improvement gives, needs
    one or two; the plan's ``error`` says what is left.

    Args:
        transitions: of the map.
        rewards: (states,) for the state entered; or R(s, a), (states, actions), with per "action".
        gamma: the discount, at least 0 and below 1.
        start: (states, actions) probabilities or (states,) actions; None for the random walk.
        per: as :func:`value_iteration`.
        steps: improvements; None until nothing can be improved, with a warning after 10,000.

    Raises:
        ValueError: gamma outside [0, 1), rewards of another shape or not finite, steps below 1, or no policy.

    Reference: Howard, Dynamic Programming and Markov Processes (1960).

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> print(policy_iteration(transitions([[0, 1], [0, 1]]), np.array([0.0, 1.0]), 0.5))
    Plan for 2 states: converged after 1 steps, values 2 to 2, each within 0.0e+00 of the best
    """
    gamma = check_gamma(gamma, "policy_iteration")
    rewards = check_rewards(transitions, rewards, per, "policy_iteration")
    if rewards.ndim != 1 and per != "action":
        raise ValueError(
            f"policy_iteration: rewards must be ({transitions.states},); got {rewards.shape}; loop over them"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"policy_iteration: steps must be 1 or more, or None; got {steps}")
    policy = uniform_policy(transitions) if start is None else np.asarray(start)
    check_policy(transitions, policy, "policy_iteration")
    most, step = 10_000 if steps is None else steps, 0
    both = np.stack([mean_rewards(transitions, each, per) for each in (rewards, np.abs(rewards))], axis=2)
    while True:
        known = factorize(transitions, policy, gamma)
        values = known.factor.solve((known.policy[..., None] * both).sum(axis=1))
        # The values of |rewards| say what rounding may do where gains and losses cancel.
        action_values, size = np.moveaxis(both + expect(transitions, gamma * values), -1, 0)
        held = policy if policy.ndim == 1 else None
        actions = greedy(action_values, held, size.max(axis=1))
        converged = held is not None and np.array_equal(actions, held)
        if converged or step == most:
            break
        policy, step = actions, step + 1
    if steps is None:
        _warn_if_short("policy_iteration", converged, step)
    gain = float(np.max(action_values.max(axis=1) - values[:, 0], initial=0.0))
    return Plan(values[:, 0], policy, step, gain / (1 - gamma), converged)


def evaluate_policy(
    transitions: Transitions, policy: ndarray, rewards: ndarray, gamma: float, *, per: Per | None = None
) -> ndarray:
    """Return a policy's exact values of rewards, (states,) or (states, rewards).

    Rewards and per as :func:`value_iteration`, errors as :func:`policy_iteration`.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> evaluate_policy(transitions([[1], [1]]), np.array([0, 0]), np.array([0.0, 1.0]), 0.5)
    array([2., 2.])
    """
    rewards = check_rewards(transitions, rewards, per, "evaluate_policy")
    return factorize(transitions, policy, gamma).values(rewards, per or "state")


def greedy(action_values: ndarray, held: ndarray | None = None, size: ndarray | None = None) -> ndarray:
    """Return the best action in each state, (states,) or (states, rewards), of values (states, actions[, rewards]).

    Actions whose values differ by no more than rounding tie: the held one stays, otherwise the first is taken. Rounding
    is judged in each state by itself, since values far from a goal are tiny.

    Args:
        action_values: (states, actions) or (states, actions, rewards).
        held: actions that stay where they tie, shaped as the result; None for none.
        size: of the numbers that were added up in each state, shaped as the result; None for the best value's.

    >>> greedy(np.array([[1.0, 1.0], [0.0, 1.0]]), held=np.array([1, 1]))
    array([1, 1])
    """
    best = action_values.max(axis=1, keepdims=True)
    tied = action_values >= best - _ROUNDING * (np.abs(best) if size is None else size[:, None])
    first = tied.argmax(axis=1)
    if held is None:
        return first
    return np.where(np.take_along_axis(tied, held[:, None], axis=1)[:, 0], held, first)


def _warn_if_short(where: str, converged: bool, steps: int) -> None:
    if not converged:
        warnings.warn(
            f"{where} did not converge in {steps} steps; read the plan's error, or allow more",
            RuntimeWarning,
            stacklevel=3,
        )

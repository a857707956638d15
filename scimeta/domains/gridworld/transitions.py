"""Where each action leads: the transitions of a finite Markov decision process, kept sparse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array


class Transitions(NamedTuple):
    """The K outcomes of each action in each state; most cells of a city have one.

    Attributes:
        next: (states, actions, outcomes) int64 state that follows.
        probability: (states, actions, outcomes) of each outcome; they sum to 1 over outcomes.
    """

    next: ndarray
    probability: ndarray

    @property
    def states(self) -> int:
        """Return the number of states."""
        return self.next.shape[0]

    @property
    def actions(self) -> int:
        """Return the number of actions."""
        return self.next.shape[1]


def transitions(next: ndarray, probability: ndarray | None = None) -> Transitions:
    """Return checked transitions.

    Args:
        next: (states, actions, outcomes) whole numbers, or (states, actions) where every action is certain.
        probability: as next; None where every action is certain.

    Raises:
        ValueError: no state or action, a next state outside the map, probabilities that are negative, not finite, or
            do not sum to 1, or shapes that differ.

    >>> transitions([[1, 0], [1, 0]]).next.shape
    (2, 2, 1)
    """
    after = np.asarray(next)
    if after.ndim == 2:
        after = after[..., None]
    if after.ndim != 3 or 0 in after.shape or after.dtype.kind not in "iu":
        raise ValueError(
            "transitions: next must be (states, actions, outcomes) whole numbers, each length at least 1; "
            f"got {after.shape} of {after.dtype}"
        )
    if after.min() < 0 or after.max() >= len(after):
        raise ValueError(f"transitions: next must lie in 0..{len(after) - 1}; got {after.min()}..{after.max()}")
    if probability is None and after.shape[-1] > 1:
        raise ValueError(f"transitions: with {after.shape[-1]} outcomes an action, probability is needed")
    chance = np.ones(after.shape) if probability is None else np.asarray(probability, dtype=np.float64)
    chance = chance[..., None] if chance.ndim == 2 else chance
    if chance.shape != after.shape:
        raise ValueError(f"transitions: next has shape {after.shape}, probability {chance.shape}; give them alike")
    if not (chance >= 0).all() or not np.allclose(chance.sum(-1), 1, rtol=0, atol=1e-9):
        raise ValueError("transitions: probability must be non-negative and sum to 1 over the outcomes of each action")
    return Transitions(after.astype(np.int64, copy=False), chance)


def expect(transitions: Transitions, values: ndarray) -> ndarray:
    """Return the mean of values over the next state: (states, ...) -> (states, actions, ...).

    >>> expect(transitions([[1, 0], [1, 0]]), np.array([0.0, 5.0]))
    array([[5., 0.],
           [5., 0.]])
    """
    values = np.asarray(values)
    if transitions.next.shape[-1] == 1:
        return values[transitions.next[..., 0]]
    chance = transitions.probability.reshape(*transitions.probability.shape, *[1] * (values.ndim - 1))
    return (chance * values[transitions.next]).sum(2)


def policy_matrix(transitions: Transitions, policy: ndarray) -> csr_array:
    """Return P_pi, the (states, states) sparse matrix of one step under a policy, (states, actions) probabilities."""
    states = transitions.states
    weight = policy[..., None] * transitions.probability
    keep = weight != 0
    rows = np.broadcast_to(np.arange(states)[:, None, None], keep.shape)[keep]
    matrix = csr_array((weight[keep], (rows, transitions.next[keep])), shape=(states, states))
    matrix.sum_duplicates()
    return matrix


def uniform_policy(transitions: Transitions) -> ndarray:
    """Return the random walk: (states, actions) equal probabilities."""
    return np.full((transitions.states, transitions.actions), 1 / transitions.actions)


def one_hot(actions: ndarray, number: int) -> ndarray:
    """Return a deterministic policy, (states,) actions, as (states, actions) probabilities.

    >>> one_hot(np.array([1, 0]), 2)
    array([[0., 1.],
           [1., 0.]])
    """
    return np.eye(number)[actions]


def check_policy(transitions: Transitions, policy: ndarray, where: str) -> ndarray:
    """Return a policy as (states, actions) probabilities; ValueError, with the caller's name, where it is none."""
    policy = np.asarray(policy)
    shape = (transitions.states, transitions.actions)
    if policy.shape == shape[:1] and policy.dtype.kind in "iu" and policy.min() >= 0 and policy.max() < shape[1]:
        return one_hot(policy, shape[1])
    if policy.shape != shape:
        raise ValueError(
            f"{where}: the policy must be {shape} probabilities, or ({shape[0]},) actions in 0..{shape[1] - 1}; "
            f"got {policy.shape} of {policy.dtype}"
        )
    policy = policy.astype(np.float64)
    if not (policy >= 0).all() or not np.allclose(policy.sum(1), 1, rtol=0, atol=1e-9):
        raise ValueError(f"{where}: the policy's probabilities must be non-negative and sum to 1 in every state")
    return policy


def check_gamma(gamma: float, where: str) -> float:
    """Return the discount; ValueError, with the caller's name, outside [0, 1)."""
    if not 0 <= gamma < 1:
        raise ValueError(f"{where}: gamma must be at least 0 and below 1, so that values are finite; got {gamma}")
    return float(gamma)

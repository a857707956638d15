"""Which policies to keep in a library: walks that know every goal, and a basis for rewards of any sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.exact import check_state_values
from scimeta.domains.gridworld.library import Library, library
from scimeta.domains.gridworld.planning import value_iteration
from scimeta.domains.gridworld.transitions import Transitions, one_hot


def lazy_walk(transitions: Transitions, activity: float = 0.05) -> ndarray:
    """Return the walk that stays, and with probability ``activity`` takes any of the actions, (states, actions).

    Waiting discounts each move, so that of all ways from here to there the shortest dominate the walk's successor
    representation. Where steps are certain and the walk is lazy enough, its greedy policy for one goal is a shortest
    path to it, from everywhere and to every goal: a library of one. (The random walk itself, activity 1, also counts
    the ways that wander, and near walls takes detours.) At the default and gamma 0.95, M falls tenfold a step or so:
    some 300 steps away it is below 1e-308 and the goal out of sight; take a larger activity there.

    Raises:
        ValueError: activity outside (0, 1], or a map without an action that stays.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> lazy_walk(transitions([[0, 1], [1, 0]]), activity=0.1)
    array([[0.95, 0.05],
           [0.95, 0.05]])
    """
    if not 0 < activity <= 1:
        raise ValueError(f"lazy_walk: activity must be above 0 and at most 1; got {activity}")
    here = np.arange(transitions.states)[:, None, None]
    stays = ((transitions.next == here) | (transitions.probability == 0)).all(axis=(0, 2))
    if not stays.any():
        raise ValueError("lazy_walk: no action stays in every state; use uniform_policy or softened policies of goals")
    return soften(np.full(transitions.states, stays.argmax()), activity, actions=transitions.actions)


def soften(policy: ndarray, epsilon: float, actions: int | None = None) -> ndarray:
    """Return a policy that takes any action with probability epsilon, else its own.

    The features of a policy that is certain are zero off its route, and say nothing about the rest of the map.

    Args:
        policy: (states, actions) probabilities, or (states,) actions, which need ``actions``, their number.
        epsilon: from 0 to 1.

    Raises:
        ValueError: epsilon outside its range, actions outside 0..actions-1, or probabilities that are none.

    >>> soften(np.array([1]), 0.1, actions=2)
    array([[0.05, 0.95]])
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"soften: epsilon must be from 0 to 1; got {epsilon}")
    policy = np.asarray(policy)
    if policy.ndim == 1:
        if actions is None:
            raise ValueError("soften: a policy of (states,) actions needs actions, their number")
        if policy.dtype.kind not in "iu" or not ((policy >= 0) & (policy < actions)).all():
            raise ValueError(f"soften: the actions must be whole numbers in 0..{actions - 1}; got {policy.tolist()}")
        policy = one_hot(policy, actions)
    if policy.ndim != 2 or not (policy >= 0).all() or not np.allclose(policy.sum(1), 1, rtol=0, atol=1e-9):
        raise ValueError(
            "soften: the policy must be (states, actions) probabilities, non-negative and of sum 1 in every state"
        )
    return (1 - epsilon) * policy + epsilon / policy.shape[1]


def basis_weights(features: int, avoid: float = 1.0) -> ndarray:
    """Return (features, features) reward weights whose optimal policies are a basis: seek one feature, avoid the rest.

    ``avoid`` 0 gives the unit vectors; 1 the independent policies of Alver and Precup.

    Reference: Alver, Precup, Constructing a Good Behavior Basis for Transfer using Generalized Policy Updates, ICLR
    (2022).

    >>> basis_weights(2)
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    return (1 + avoid) * np.eye(features) - avoid


def basis_library(
    transitions: Transitions,
    features: ndarray,
    gamma: float,
    *,
    names: Sequence[str] | None = None,
    avoid: float = 1.0,
    epsilon: float = 0.01,
) -> Library:
    """Return a library that serves any signs of the weights: for each feature the policy that seeks it.

    Args:
        transitions: of the map.
        features: phi, (states, features), as indicators of places.
        gamma: the discount, at least 0 and below 1.
        names: of the features; 0, 1, ... if None.
        avoid: how much each policy shuns the other features, see :func:`basis_weights`.
        epsilon: by which the policies are softened; a little tells each what lies beside its route.

    Raises:
        ValueError: names that do not match the features; as :func:`library`.
    """
    features = check_state_values(transitions, features, "basis_library", "features")
    if features.ndim != 2:
        raise ValueError(f"basis_library: features must be ({transitions.states}, features); got {features.shape}")
    names = range(features.shape[1]) if names is None else names
    if len(names) != features.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"basis_library: {features.shape[1]} features need as many different names; got {list(names)}")
    weights = basis_weights(features.shape[1], avoid)
    best = value_iteration(transitions, features @ weights.T, gamma, per="state").actions
    policies = {f"seek {name}": soften(best[:, i], epsilon, transitions.actions) for i, name in enumerate(names)}
    return library(transitions, policies, features, gamma)

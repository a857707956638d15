"""Generalised policy improvement: the best of many known policies, one step at a time, for rewards never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.exact import Per, check_rewards, check_state_values, factorize, mean_rewards
from scimeta.domains.gridworld.transitions import Transitions, check_gamma, check_policy, expect


@dataclass(frozen=True, eq=False, repr=False)
class Library:
    """Policies and where they lead.

    Attributes:
        gamma: the discount.
        policies: (policies, states, actions) probabilities.
        features: psi, (policies, states, actions, features), their successor features.
        names: one a policy.
    """

    gamma: float
    policies: ndarray
    features: ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_gamma(self.gamma, "Library")
        _check_psi(self.features)
        if self.policies.shape != self.features.shape[:3] or len(self.names) != len(self.policies):
            raise ValueError(
                f"Library: {len(self.names)} names, policies {self.policies.shape} and features {self.features.shape} "
                "do not agree; they are (policies, states, actions) and (policies, states, actions, features)"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Library({len(self)} policies of {self.features.shape[1]} states, {self.features.shape[3]} features)"

    def __str__(self) -> str:
        size = self.features.nbytes / 1e6
        return f"{self!r}, gamma {self.gamma:g}, {size:.3g} MB: {', '.join(self.names)}"

    def values(self, weights: ndarray) -> ndarray:
        """Return the (policies, states) values of each policy for reward weights (features,)."""
        weights = _check_weights(self.features, weights)
        if weights.ndim != 1:
            raise ValueError(f"values: weights must be ({self.features.shape[3]},); got {weights.shape}")
        return (self.policies * (self.features @ weights)).sum(axis=2)


@dataclass(frozen=True, eq=False)
class Improved:
    """The policy of generalised policy improvement; leading axes are those of the weights.

    Attributes:
        actions: (..., states) the improved policy.
        follows: (..., states) which policy of the library is best from there on.
        values: (..., states) what is certain: the improved policy's values are at least these.
    """

    actions: ndarray
    follows: ndarray
    values: ndarray

    def __str__(self) -> str:
        used, blind = len(np.unique(self.follows)), int((self.values == 0).sum())
        return (
            f"Improved policy of {self.actions.shape[-1]} states, following {used} of the library's policies; "
            f"values at least {self.values.min():.6g} to {self.values.max():.6g}"
            + (f"; {blind} states see no reward from there (0)" if blind else "")
        )


def library(transitions: Transitions, policies: Mapping[str, ndarray], features: ndarray, gamma: float) -> Library:
    """Return policies with their successor features, each by one sparse factorisation.

    Args:
        transitions: of the map.
        policies: name -> (states, actions) probabilities or (states,) actions.
        features: phi, (states, features) of the state entered; the identity, where any cell may become a goal.
        gamma: the discount, at least 0 and below 1.

    Raises:
        ValueError: no policies, one that does not fit the map, features of another shape or not finite, or gamma
            outside [0, 1).

    >>> from scimeta.domains.gridworld.transitions import transitions, uniform_policy
    >>> street = transitions([[0, 0, 1], [0, 1, 2], [1, 2, 2]])
    >>> print(library(street, {"walk": uniform_policy(street)}, np.eye(3), gamma=0.9))
    Library(1 policies of 3 states, 3 features), gamma 0.9, 0.000216 MB: walk
    """
    if not policies:
        raise ValueError("library: there are no policies; give at least one, such as the random walk's uniform_policy")
    features = check_state_values(transitions, features, "library", "features")
    if features.ndim != 2:
        raise ValueError(f"library: features must be ({transitions.states}, features); got {features.shape}")
    checked = {name: check_policy(transitions, policy, f"library, {name}") for name, policy in policies.items()}
    psi = [factorize(transitions, policy, gamma).features(features) for policy in checked.values()]
    return Library(float(gamma), np.stack(list(checked.values())), np.stack(psi), tuple(checked))


def improve(known: Library | ndarray, weights: ndarray) -> Improved:
    """Return the policy of generalised policy improvement, argmax_a max_i psi_i(s, a) w.

    Nothing is planned: one product and two maxima. The policy is nowhere worse than any policy of the library.

    Args:
        known: a library, or psi, (policies, states, actions, features).
        weights: (..., features) of the reward phi w; leading axes hold several rewards.

    Raises:
        ValueError: no policies, weights that do not fit the features, or numbers that are not finite.

    Reference: Barreto et al., NeurIPS 30 (2017), theorem 1; Proc. Natl. Acad. Sci. 117, 30079 (2020).

    >>> from scimeta.domains.gridworld.transitions import transitions, uniform_policy
    >>> street = transitions([[0, 0, 1], [0, 1, 2], [1, 2, 2]])
    >>> known = library(street, {"walk": uniform_policy(street)}, np.eye(3), gamma=0.9)
    >>> improve(known, np.array([0.0, 0.0, 1.0])).actions
    array([2, 2, 1])
    """
    psi = known.features if isinstance(known, Library) else np.asarray(known)
    _check_psi(psi)
    weights = _check_weights(psi, weights)
    action_values = np.moveaxis(psi @ weights.reshape(-1, psi.shape[3]).T, -1, 0)
    best = action_values.max(axis=3)  # (rewards, policies, states)
    follows = best.argmax(axis=1)
    actions = action_values.max(axis=1).argmax(axis=2)
    shape = (*weights.shape[:-1], psi.shape[1])
    return Improved(actions.reshape(shape), follows.reshape(shape), best.max(axis=1).reshape(shape))


def transfer_bound(
    features: ndarray, weights: ndarray, known_weights: ndarray, gamma: float, *, error: float = 0.0
) -> float:
    """Return 2 / (1 - gamma) (phi_max min_j |w - w_j| + error), the most that the improved policy can lack anywhere.

    It holds for a library of policies that are optimal for known_weights, and needs no map and no optimal values.

    Args:
        features: phi, (states, features); phi_max is the largest norm of a row.
        weights: (features,) of the new reward.
        known_weights: (policies, features) that the library's policies are optimal for.
        gamma: the discount, at least 0 and below 1.
        error: the largest of the library's errors in values psi w.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, a negative error.

    Reference: Barreto et al., NeurIPS 30 (2017), theorem 2.

    >>> transfer_bound(np.eye(2), np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.0, 1.0]]), gamma=0.9)
    0.0
    """
    gamma = check_gamma(gamma, "transfer_bound")
    features, weights, known_weights = (np.asarray(each, dtype=float) for each in (features, weights, known_weights))
    if known_weights.ndim != 2 or not known_weights.size or weights.shape != known_weights.shape[1:]:
        raise ValueError(
            "transfer_bound: known_weights must be (policies, features), with one policy or more, and weights "
            f"(features,); got {known_weights.shape} and {weights.shape}"
        )
    if features.ndim != 2 or features.shape[1:] != weights.shape:
        raise ValueError(f"transfer_bound: features must be (states, {weights.size}); got {features.shape}")
    for name, each in (("features", features), ("weights", weights), ("known_weights", known_weights)):
        if not np.isfinite(each).all():
            raise ValueError(f"transfer_bound: {name} must be finite; got {each[~np.isfinite(each)][0]}")
    if not error >= 0:
        raise ValueError(f"transfer_bound: error must be 0 or more; got {error}")
    largest = np.linalg.norm(features, axis=1).max()
    return float(2 / (1 - gamma) * (largest * np.linalg.norm(weights - known_weights, axis=1).min() + error))


def optimality_gap(
    transitions: Transitions, values: ndarray, rewards: ndarray, gamma: float, *, per: Per | None = None
) -> ndarray:
    """Return (states,) the most that a policy can lack, from values that it surely has; usually far below theorem 2.

    With U those values and T the Bellman operator, V* <= T U + gamma / (1 - gamma) max (T U - U). One sweep over the
    map; no optimal values are needed.

    Args:
        transitions: of the map.
        values: U, (states,), as :class:`Improved` has them; the policy's own values give a tighter bound.
        rewards: (states,) for the state entered, phi w; or R(s, a), (states, actions), with per "action".
        gamma: the discount, at least 0 and below 1.
        per: what the rewards are for, "state" (entered) or "action"; None refuses a table that could be either.

    Reference: MacQueen, J. Math. Anal. Appl. 14, 38 (1966).

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> optimality_gap(transitions([[0, 1], [0, 1]]), np.array([2.0, 2.0]), np.array([0.0, 1.0]), gamma=0.5)
    array([0., 0.])
    """
    gamma = check_gamma(gamma, "optimality_gap")
    values = check_state_values(transitions, values, "optimality_gap", "values")
    rewards = check_rewards(transitions, rewards, per, "optimality_gap")
    if values.ndim != 1 or (rewards.ndim != 1 and per != "action"):
        raise ValueError(
            f"optimality_gap: values and rewards must be ({transitions.states},); got {values.shape} and "
            f"{rewards.shape}"
        )
    gain = (mean_rewards(transitions, rewards, per) + expect(transitions, gamma * values)).max(axis=1) - values
    return np.maximum(gain + gamma / (1 - gamma) * max(gain.max(), 0.0), 0.0)


def _check_psi(psi: ndarray) -> None:
    if psi.ndim != 4 or not psi.size:
        raise ValueError(
            "psi must be (policies, states, actions, features), with one policy or more; "
            f"got {psi.shape}" + ("; the library is empty" if psi.ndim == 4 and not len(psi) else "")
        )
    if not np.isfinite(psi).all():
        raise ValueError(f"psi must be finite; got {psi[~np.isfinite(psi)][0]}")


def _check_weights(psi: ndarray, weights: ndarray) -> ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim < 1 or weights.shape[-1] != psi.shape[3]:
        raise ValueError(f"weights must be (..., {psi.shape[3]}), one a feature; got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite; got {weights[~np.isfinite(weights)][0]}")
    return weights

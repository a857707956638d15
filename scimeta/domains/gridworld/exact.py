"""Successor features by one sparse factorisation: where a policy leads from anywhere, for any feature or reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import SuperLU, splu

from scimeta.domains.gridworld.transitions import Transitions, check_gamma, check_policy, expect, policy_matrix

Per = Literal["state", "action"]
"""What a table of rewards is for: the state entered, or each action in each state."""


@dataclass(frozen=True, eq=False, repr=False)
class SuccessorMap:
    """A factorised I - gamma P_pi; each question about the policy is then one triangular solve.

    Attributes:
        transitions: of the map.
        gamma: the discount.
        policy: (states, actions) probabilities.
        matrix: (states, states) sparse P_pi, one step under the policy.
        factor: the sparse LU factors of I - gamma P_pi.
    """

    transitions: Transitions
    gamma: float
    policy: ndarray
    matrix: csr_array
    factor: SuperLU

    def __repr__(self) -> str:
        stored = self.factor.L.nnz + self.factor.U.nnz
        return f"SuccessorMap({self.transitions.states} states, gamma {self.gamma:g}, {stored} numbers in the factors)"

    def solve(self, features: ndarray) -> ndarray:
        """Return u = (I - gamma P_pi)^-1 phi, the discounted features from each state on, its own included.

        Args:
            features: phi, (states,) or (states, features); the identity gives the successor representation M.

        Raises:
            ValueError: another number of states, or numbers that are not finite.
        """
        return self.factor.solve(check_state_values(self.transitions, features, "solve", "features"))

    def features(self, features: ndarray) -> ndarray:
        """Return the successor features psi(s, a) = E u(s'), (states, actions) or (states, actions, features)."""
        return expect(self.transitions, self.solve(features))

    def values(self, rewards: ndarray, per: Per | None = None) -> ndarray:
        """Return the policy's values V of rewards, (states,) or (states, rewards).

        Of rewards for the states entered V = P_pi u; of rewards R(s, a) V = (I - gamma P_pi)^-1 sum_a pi(a|s) R(s, a).
        A goal g is the reward that is 1 at g: the way to ask at 10^5 states, where M would not fit.

        Args:
            rewards: (states,) or (states, rewards) for the state entered; with per "action" R(s, a), (states, actions).
            per: "state" or "action"; None refuses a table that could be either, with as many columns as actions.

        Raises:
            ValueError: rewards of another shape, of two possible meanings, or not finite.
        """
        rewards = check_rewards(self.transitions, rewards, per, "values")
        if per == "action":
            return self.factor.solve((self.policy * rewards).sum(axis=1))
        return self.matrix @ self.factor.solve(rewards)

    def column(self, goal: int) -> ndarray:
        """Return (states,) M[:, goal], the discounted visits to the goal from each state."""
        return self.factor.solve(self._indicator(goal))

    def row(self, start: int) -> ndarray:
        """Return (states,) M[start], the discounted visits to each state from the start; they sum to 1/(1 - gamma)."""
        return self.factor.solve(self._indicator(start), "T")

    def residual(self, features: ndarray, solution: ndarray) -> float:
        """Return the largest of |u - gamma P_pi u - phi| of a solution u."""
        return float(np.abs(solution - self.gamma * (self.matrix @ solution) - features).max())

    def _indicator(self, state: int) -> ndarray:
        check_state(self.transitions, state, "SuccessorMap", "state")
        indicator = np.zeros(self.transitions.states)
        indicator[state] = 1
        return indicator


def factorize(transitions: Transitions, policy: ndarray, gamma: float) -> SuccessorMap:
    """Return the factorised successor representation of a policy; no dense (states, states) matrix is formed.

    I - gamma P_pi is a diagonally dominant M-matrix. Its elimination therefore needs no pivots off the diagonal, and
    the order that suits the pattern may be chosen freely: minimum degree on A + A^T, which on city maps fills half as
    much as the column order. With features that are nowhere negative hardly anything cancels, so even values of 1e-200,
    far from a goal, keep most of their digits; what would be below 1e-308 becomes 0.

    Args:
        transitions: of the map.
        policy: (states, actions) probabilities, or (states,) actions.
        gamma: the discount, at least 0 and below 1.

    Raises:
        ValueError: gamma outside [0, 1), or no policy of this map.

    Reference: Dayan, Neural Comput. 5, 613 (1993); Demmel et al., SIAM J. Matrix Anal. Appl. 20, 720 (1999).

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> there_and_back = factorize(transitions([[1], [0]]), np.array([0, 0]), gamma=0.5)
    >>> there_and_back.solve(np.eye(2)).round(4)
    array([[1.3333, 0.6667],
           [0.6667, 1.3333]])
    """
    gamma = check_gamma(gamma, "factorize")
    policy = check_policy(transitions, policy, "factorize")
    matrix = policy_matrix(transitions, policy)
    system = (eye_array(transitions.states) - gamma * matrix).tocsc()
    system.sort_indices()
    factor = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return SuccessorMap(transitions, gamma, policy, matrix, factor)


def check_state_values(transitions: Transitions, values: ndarray, where: str, what: str) -> ndarray:
    """Return (states,) or (states, columns) finite float64 numbers, or say, with the caller's name, what is wrong."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != transitions.states or 0 in values.shape:
        raise ValueError(
            f"{where}: {what} must be ({transitions.states},) or ({transitions.states}, columns), one row a state; "
            f"got {values.shape}"
        )
    if not np.isfinite(values).all():
        row = np.argwhere(~np.isfinite(values))[0][0]
        raise ValueError(f"{where}: {what} must be finite; state {row} has {values[row]}")
    return values


def check_rewards(transitions: Transitions, rewards: ndarray, per: Per | None, where: str) -> ndarray:
    """Return finite float64 rewards: for the state entered, (states,) or (states, rewards); R(s, a) with per "action".

    A table with a column for each action could also be as many rewards for the state entered; it is refused, with the
    caller's name, until ``per`` says which.
    """
    check_per(per, where)
    rewards = np.asarray(rewards, dtype=np.float64)
    table = (transitions.states, transitions.actions)
    if rewards.ndim == 3:
        raise ValueError(
            f"{where}: rewards must be {table[:1]} for the state entered, or {table} for each action; got "
            f"{rewards.shape}; of rewards R(s, a, s') give the mean over the next states, (probability * "
            'rewards).sum(-1) where both are (states, actions, next states), and per="action"'
        )
    if per is None and rewards.shape == table:
        raise ValueError(
            f"{where}: rewards of shape {table} could be R(s, a), one for each action, or {table[1]} rewards for the "
            'state entered; say which with per="action" or per="state"'
        )
    if per != "action":
        return check_state_values(transitions, rewards, where, "rewards")
    if rewards.shape != table:
        raise ValueError(f'{where}: with per="action" rewards must be {table}, (states, actions); got {rewards.shape}')
    bad = np.argwhere(~np.isfinite(rewards))
    if len(bad):
        state, action = bad[0].tolist()
        raise ValueError(
            f"{where}: rewards must be finite; state {state} has {rewards[state, action]} for action {action}; to "
            "rule an action out give it a finite reward too low to be chosen, such as -1e6"
        )
    return rewards


def check_per(per: Per | None, where: str) -> None:
    """Say, with the caller's name, that rewards are neither for states nor for actions."""
    if per not in (None, "state", "action"):
        raise ValueError(f'{where}: per must be "state" (entered), "action", or None; got {per!r}')


def mean_rewards(transitions: Transitions, rewards: ndarray, per: Per | None) -> ndarray:
    """Return E[r | s, a], (states, actions) or (states, actions, rewards), of checked rewards."""
    return rewards if per == "action" else expect(transitions, rewards)


def check_state(transitions: Transitions, state: int, where: str, what: str) -> int:
    """Return the state; ValueError, with the caller's name, where the map has no such state."""
    number = np.asarray(state)
    if number.ndim or number.dtype.kind not in "iuf" or not 0 <= number < transitions.states or number % 1:
        raise ValueError(f"{where}: the {what} must be a state, 0..{transitions.states - 1}; got {state}")
    return int(state)

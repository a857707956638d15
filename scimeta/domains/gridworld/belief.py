"""Where the one rewarded cell may be: a probability for each cell, before and after rewards were seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray


def update_belief(
    belief: ndarray, entered: Sequence[int] | ndarray, rewards: ndarray, *, sigma: float = 0.0, value: float = 1.0
) -> ndarray:
    """Return the belief after cells were entered and their rewards seen.

    Args:
        belief: (states,) weight of each cell before.
        entered: (steps,) states entered, one after the other; repeated ones count each time.
        rewards: (steps,) reward on entering each.
        sigma: standard deviation of the rewards' noise; 0 for none.
        value: the reward in the cell that has one.

    Raises:
        ValueError: shapes that differ, a reward that is not finite or, without noise, neither 0 nor value, rewards that
            contradict the belief.

    >>> update_belief(np.ones(4), [0, 1], np.array([0.0, 0.0]))
    array([0. , 0. , 0.5, 0.5])
    """
    entered, rewards = np.asarray(entered), np.asarray(rewards, dtype=float)
    belief = check_belief(belief, len(belief), "update_belief")
    if entered.ndim != 1 or rewards.shape != entered.shape or (len(entered) and entered.dtype.kind not in "iu"):
        raise ValueError(
            f"update_belief: entered must be (steps,) states and rewards (steps,); got {entered.shape} and "
            f"{rewards.shape}"
        )
    if len(entered) and not (entered.min() >= 0 and entered.max() < len(belief)):
        raise ValueError(f"update_belief: entered must lie in 0..{len(belief) - 1}; got {entered.tolist()}")
    if not np.isfinite(rewards).all():
        i = int((~np.isfinite(rewards)).argmax())
        raise ValueError(f"update_belief: rewards[{i}] is {rewards[i]}; rewards must be finite")
    if not (np.isfinite(sigma) and sigma >= 0 and np.isfinite(value) and value != 0):
        raise ValueError(f"update_belief: sigma must be 0 or more and value not 0; got {sigma} and {value}")
    if sigma > 0:
        evidence = np.zeros(len(belief))
        np.add.at(evidence, entered.astype(int), value * (rewards - 0.5 * value) / sigma**2)
        return _normalized(belief * np.exp(np.minimum(evidence - evidence[belief > 0].max(), 0.0)))
    hit = np.isclose(rewards, value, rtol=1e-9, atol=0)
    if not (hit | (np.abs(rewards) <= 1e-9 * abs(value))).all():
        raise ValueError(f"update_belief: without noise a reward is 0 or {value:g}; got {rewards.tolist()}; pass sigma")
    possible = np.ones(len(belief), dtype=bool)
    possible[entered[~hit].astype(int)] = False
    for cell in entered[hit]:
        possible &= np.arange(len(belief)) == cell
    return _normalized(belief * possible)


def cell_belief(past: Sequence[int] | ndarray, kinds: ndarray, *, strength: float = 1.0) -> ndarray:
    """Return (states,) the belief about the next goal that past goals suggest.

    Goals are drawn by the kind of cell (street, park, ...), alike within a kind; the kinds' shares are those of the
    past goals, with ``strength`` goals more that fell anywhere.

    Args:
        past: (goals,) states that were goals.
        kinds: (states,) whole number for the kind of each cell.
        strength: how many goals the even spread counts for; above 0, so that no cell is ruled out.

    >>> cell_belief([0], np.array([0, 0, 1, 1])).round(3)
    array([0.375, 0.375, 0.125, 0.125])
    """
    past, kinds = np.asarray(past), np.asarray(kinds)
    past = past if past.size else past.astype(int)
    if kinds.ndim != 1 or kinds.dtype.kind not in "iu" or not len(kinds) or kinds.min() < 0:
        raise ValueError(f"cell_belief: kinds must be (states,) whole numbers, 0 or more; got {kinds!r}")
    if past.ndim != 1 or past.dtype.kind not in "iu" or not ((past >= 0) & (past < len(kinds))).all():
        raise ValueError(
            f"cell_belief: past goals must be states, whole numbers in 0..{len(kinds) - 1}; got {past.tolist()}"
        )
    if not 0 < strength < np.inf:
        raise ValueError(f"cell_belief: strength must be positive; got {strength}")
    sizes = np.bincount(kinds)
    goals = np.bincount(kinds[past], minlength=len(sizes))
    return (goals / np.maximum(sizes, 1) + strength / len(kinds))[kinds] / (len(past) + strength)


def check_belief(belief: ndarray, states: int, where: str) -> ndarray:
    """Return (states,) weights as probabilities; ValueError, with the caller's name, where they are none."""
    belief = np.asarray(belief, dtype=float)
    if belief.shape != (states,) or not np.isfinite(belief).all() or not (belief >= 0).all() or not belief.any():
        raise ValueError(
            f"{where}: belief must be ({states},) finite weights, 0 or more and not all 0; got shape {belief.shape}"
        )
    return belief / belief.sum()


def _normalized(belief: ndarray) -> ndarray:
    if not belief.any():
        raise ValueError("update_belief: the rewards rule out every cell of the belief; one of them must be wrong")
    return belief / belief.sum()

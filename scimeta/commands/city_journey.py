"""A way through a learned city: the policy that follows from an aim, its route, and how far it is from the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.commands.city_aims import Aim
from scimeta.commands.learned_city import LearnedCity
from scimeta.domains import gridworld


class Judged(NamedTuple):
    """A policy for an aim, from every cell.

    Attributes:
        actions: (states,) the policy.
        values: (states,) its expected discounted rewards.
        best: (states,) those of the best policy that there is.
        regret: (states,) the share of the best that it misses: 1 - V/V* of a goal; of preferences
            (V* - V) / (V* - V of the random walk).
    """

    actions: ndarray
    values: ndarray
    best: ndarray
    regret: ndarray


@dataclass(frozen=True, eq=False)
class Journey:
    """A route from one cell; where chance leaves none, the policy alone.

    Attributes:
        aim: what was wanted.
        start: state.
        judged: the policy.
        arrival: how likely it arrives from each cell, and after how many steps; None of preferences.
        shortest: fewest steps to the goal; NaN of preferences.
        states: from the start to the end; None where the policy's likeliest steps do not come to an end: they lead back
            to where they came from, and only chance leads on, if anything does.
        chance: probability that every step goes where it should.
        stays: whether the policy stays at the end; preferences may lead round for ever.
    """

    aim: Aim
    start: int
    judged: Judged
    arrival: gridworld.Arrival | None
    shortest: float
    states: tuple[int, ...] | None
    chance: float
    stays: bool


def judge(known: LearnedCity, aim: Aim, further: int = 0) -> Judged:
    """Return the policy of generalised policy improvement, after so many further improvements by planning."""
    steps, rewards = known.transitions, aim.rewards(known)
    single = aim.ends is not None and not aim.weights.any()
    actions = known.improved(aim.weights, aim.extra, walk_alone=single)
    if further:
        actions = gridworld.policy_iteration(steps, rewards, known.gamma, actions, steps=further).actions
    values = gridworld.evaluate_policy(steps, actions, rewards, known.gamma)
    best = gridworld.policy_iteration(steps, rewards, known.gamma, actions).values
    if aim.ends is not None:
        return Judged(actions, values, best, gridworld.regret(values, best))
    random = gridworld.evaluate_policy(steps, gridworld.uniform_policy(steps), rewards, known.gamma)
    return Judged(actions, values, best, gridworld.normalized_regret(values, best, random))


def travel(known: LearnedCity, aim: Aim, start: int, further: int = 0) -> Journey:
    """Return the journey from a state; without a route where the policy's likeliest steps do not come to an end.

    Args:
        known: the city.
        aim: what is wanted.
        start: state.
        further: improvements of the policy by planning, one sparse solve each.

    Raises:
        ValueError: no way leads from the start to the goal.
    """
    shortest, arrival = np.nan, None
    if aim.ends is not None:
        shortest = min(float(gridworld.distances(known.transitions, int(goal))[start]) for goal in aim.ends)
        if np.isinf(shortest):
            raise ValueError(
                f"{aim.name} cannot be reached from {known.name_of(start)}: walls or one-way cells bar every way; "
                "route None"
            )
    judged = judge(known, aim, further)
    if aim.ends is not None:
        arrival = gridworld.arrival(known.transitions, judged.actions, aim.ends)
    followed = _follow(known.transitions, judged.actions, start, aim.ends)
    return Journey(aim, start, judged, arrival, shortest, *followed)


def _follow(
    steps: gridworld.Transitions, actions: ndarray, start: int, ends: ndarray | None
) -> tuple[tuple[int, ...] | None, float, bool]:
    """Return the likeliest states from the start on, their chance, and whether the last is for good.

    Without ends they go as far as they do not come back to a state; that is an end only if no chance leads out of it.
    """
    place, chance, seen = start, 1.0, {start: 1.0}  # in their order, with the chance of having come so far
    while ends is None or place not in ends:
        after, likely = (part[place, actions[place]] for part in steps)
        likely = ((after[:, None] == after) * likely).sum(axis=1)  # several outcomes may lead to one cell
        following = int(after[likely.argmax()])
        ahead = chance * float(likely.max())
        if following in seen:
            for_good = ends is None and ahead > seen[following] * (1 - 1e-9)
            return (tuple(seen), chance, following == place) if for_good else (None, 0.0, False)
        place, chance = following, ahead
        seen[place] = chance
    return tuple(seen), chance, True

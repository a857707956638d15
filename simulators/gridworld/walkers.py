"""Thousands of agents that walk at once, on one city or on many of unequal size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from simulators.gridworld.city import City


class Walkers:
    """Agents on one city or several, moved together by one look-up in a joint table.

    A step of 4096 agents takes some tens of microseconds. Nothing ends: episodes are the caller's.

    Args:
        cities: one City, or several; their sizes may differ, their numbers of actions may not.
        agents: how many walk.
        maps: (agents,) which city each agent walks in; in turns (0, 1, ..., 0, 1, ...) if None.

    Attributes:
        states: (agents,) state of each agent in its own city.
        maps: (agents,) as given.

    Raises:
        ValueError: no city or agent, or maps that are not (agents,) numbers of cities.

    >>> from simulators.gridworld.layouts import four_rooms, open_grid
    >>> walkers = Walkers([four_rooms(), open_grid(3)], 4)
    >>> walkers.reset(np.random.default_rng(0), starts=np.zeros(4, dtype=int))
    array([0, 0, 0, 0])
    >>> walkers.step(np.array([3, 3, 1, 1]))
    array([ 1,  1, 12,  3])
    """

    def __init__(self, cities: City | Sequence[City], agents: int, maps: ndarray | None = None) -> None:
        cities = [cities] if isinstance(cities, City) else list(cities)
        if not all(isinstance(city, City) for city in cities):
            raise ValueError(f"Walkers: cities must be a City or several, as town() or read_city(...); got {cities!r}")
        if not cities or agents < 1 or agents != int(agents):
            raise ValueError(f"Walkers: at least one city and one agent are needed; got {len(cities)} and {agents}")
        maps = np.arange(agents) % len(cities) if maps is None else np.asarray(maps)
        if maps.shape != (agents,) or maps.dtype.kind not in "iu" or maps.min() < 0 or maps.max() >= len(cities):
            raise ValueError(f"Walkers: maps must be ({agents},) whole numbers in 0..{len(cities) - 1}; got {maps!r}")
        self.cities, self.maps = tuple(cities), maps
        self._sizes = np.array([len(city) for city in cities])[maps]
        self._first = np.concatenate([[0], np.cumsum([len(city) for city in cities])])[maps]
        self._next, self._chance = _joint(cities)
        self._actions, self._outcomes = cities[0].next.shape[1], self._next.shape[-1]
        self._flat = self._next.ravel()
        self._rows = self._first.copy()
        self._rng: np.random.Generator | None = None

    @property
    def states(self) -> ndarray:
        """Return (agents,) the state of each agent in its own city."""
        return self._rows - self._first

    def reset(self, rng: np.random.Generator, starts: ndarray | None = None) -> ndarray:
        """Put all agents on ``starts`` (agents,), or on cells drawn evenly, and return their states.

        Args:
            rng: source of randomness, kept for the steps on slippery cells.
            starts: (agents,) states.
        """
        self._rng = rng
        return self.restart(np.ones(len(self.maps), dtype=bool), starts)

    def restart(self, which: ndarray, starts: ndarray | None = None) -> ndarray:
        """Put the agents of a mask (agents,) on new cells, as :meth:`reset`, and return all states."""
        if self._rng is None:
            raise ValueError("Walkers: call reset(rng) first")
        which = check_mask(which, len(self.maps), "Walkers")
        count = int(which.sum())
        if starts is None:
            starts = self._rng.integers(self._sizes[which])
        starts = np.asarray(starts)
        if starts.shape != (count,) or starts.dtype.kind not in "iu":
            raise ValueError(f"Walkers: starts must be ({count},) whole numbers; got {starts.shape} of {starts.dtype}")
        if (starts < 0).any() or (starts >= self._sizes[which]).any():
            raise ValueError("Walkers: every start must be a state of its agent's city; some are outside")
        self._rows[which] = self._first[which] + starts
        return self.states

    def step(self, actions: ndarray) -> ndarray:
        """Move every agent by its action (agents,) and return the states (agents,)."""
        if self._rng is None:
            raise ValueError("Walkers: call reset(rng) first")
        actions = np.asarray(actions)
        if actions.shape != self.maps.shape or actions.dtype.kind not in "iu":
            raise ValueError(
                f"Walkers: actions must be {self.maps.shape} whole numbers; got {actions.shape} of {actions.dtype}"
            )
        if actions.min() < 0 or actions.max() >= self._actions:
            raise ValueError(
                f"Walkers: actions must lie in 0..{self._actions - 1}; got {actions.min()}..{actions.max()}"
            )
        spots = self._rows * self._actions + actions
        if self._outcomes > 1:
            draws = self._rng.random(len(spots))
            outcome = sum((draws >= bound.take(spots)).astype(np.int64) for bound in self._chance)
            spots = spots * self._outcomes + outcome
        self._rows = self._flat.take(spots)
        return self._rows - self._first


def check_mask(which: ndarray, agents: int, name: str) -> ndarray:
    """Return which agents restart as booleans (agents,); anything else is a ValueError."""
    which = np.asarray(which)
    if which.dtype != bool or which.shape != (agents,):
        raise ValueError(f"{name}: restart takes a mask, ({agents},) booleans; got {which.shape} of {which.dtype}")
    return which


def _joint(cities: Sequence[City]) -> tuple[ndarray, list[ndarray]]:
    """Return all cities' next states in one numbering, (all states, actions, outcomes), and the outcomes' bounds.

    Outcome k follows where a uniform draw is at least bound k - 1 and below bound k, each (all states * actions,).
    """
    if len({city.next.shape[1] for city in cities}) > 1:
        raise ValueError("Walkers: all cities must have the same number of actions")
    outcomes = max(city.next.shape[2] for city in cities)
    after, chance, first = [], [], 0
    for city in cities:
        extra = ((0, 0), (0, 0), (0, outcomes - city.next.shape[2]))
        after.append(np.pad(city.next, extra, mode="edge") + first)
        chance.append(np.pad(city.probability, extra))
        first += len(city)
    bounds = np.concatenate(chance).cumsum(-1)[..., :-1]
    # What adding leaves short of 1 must not open a door to an outcome of no probability.
    bounds[bounds > 1 - 1e-12] = 1.0
    return np.concatenate(after), [np.ascontiguousarray(bounds[..., k].ravel()) for k in range(outcomes - 1)]

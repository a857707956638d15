"""A city learned once and kept in a file: the walk and the policies of its places, with where each of them leads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from scimeta.core.checkpoint import read_state, write_state
from scimeta.domains import gridworld
from scimeta.domains.gridworld.transitions import check_gamma
from scimeta.files import STATE

if TYPE_CHECKING:
    from simulators.gridworld import City

_KIND = "scimeta city 1"
_MOST = 4_000_000  # numbers of successor features that are kept, 32 MB
_DECADES = 290  # that a float64 can fall
_SOFT = 0.01  # a little of everything tells a place's policy what lies beside its route


class CityMap(NamedTuple):
    """A map as it was asked for, from which the same city comes again.

    Attributes:
        name: of the city.
        text: the map.
        symbols: letter on the map -> name of the place.
        spots: name of a further place -> its row and column.
        slip: probability that a move from a slippery cell goes sideways.
        source: path of the map's file, None for a ready map.
    """

    name: str
    text: str
    symbols: dict[str, str]
    spots: dict[str, list[int]]
    slip: float
    source: str | None

    def city(self) -> City:
        """Return the city; ValueError where the text is no map, a spot is a wall, or a place is there twice."""
        from simulators.gridworld import read_city

        city = read_city(f"\n{self.text}", self.symbols, slip=self.slip, name=self.name)  # never a path
        twice = [name for name in self.spots if name in city.places]
        if twice:
            raise ValueError(f"{self.name}: the place {twice[0]!r} is on the map already; choose another name")
        return city.with_places({**city.places, **{name: city.state(*spot) for name, spot in self.spots.items()}})


@dataclass(frozen=True, eq=False)
class LearnedCity:
    """What ``scimeta city train`` writes.

    Attributes:
        map: of the city.
        city: its cells and places.
        gamma: the discount.
        names: of the policies; the first is the walk, which knows the way to every cell.
        policies: (policies, states, actions) probabilities.
        successors: u, (policies, states, states) of every cell; of a large city (policies, states, places).
    """

    map: CityMap
    city: City
    gamma: float
    names: tuple[str, ...]
    policies: ndarray
    successors: ndarray

    @property
    def transitions(self) -> gridworld.Transitions:
        """Where each action leads."""
        return gridworld.transitions(self.city.next, self.city.probability)

    @property
    def every_cell(self) -> bool:
        """Whether the successor features of every cell are kept, not only of the places."""
        return self.successors.shape[2] == len(self.city)

    @property
    def features(self) -> ndarray:
        """(states, places) indicators of the places; no column where there are none."""
        return self.city.features() if self.city.places else np.zeros((len(self.city), 0))

    def name_of(self, state: int) -> str:
        """Return the first place that a state belongs to, else its row and column."""
        return self.place_of(state) or "{},{}".format(*self.city.cells[state])

    def place_of(self, state: int) -> str:
        """Return the first place that a state belongs to, or nothing."""
        return next((name for name, states in self.city.places.items() if state in states), "")

    def improved(self, weights: ndarray, extra: ndarray, *, walk_alone: bool = False) -> ndarray:
        """Return the (states,) actions of generalised policy improvement; what ties with staying stays.

        Args:
            weights: (places,) reward for entering each.
            extra: (states,) reward for entering single cells besides.
            walk_alone: leave the policies of the places out. To a single cell the walk knows the way, and they, which
                hardly ever pass it, only mislead.
        """
        from simulators.gridworld import ACTIONS

        rows = slice(0, 1 if walk_alone else None)
        if self.every_cell:
            known = self.successors[rows] @ (self.features @ weights + extra)
        else:
            known = self.successors[rows] @ weights
            if extra.any():
                known = known + _successors(self.transitions, self.policies[rows], extra, self.gamma)
        action_values = gridworld.expect(self.transitions, known.T).max(axis=2)
        return gridworld.greedy(action_values, held=np.full(len(self.city), ACTIONS.index("stay")))

    def save(self, path: str | Path) -> None:
        """Write all of it to one safetensors file, whole or not at all; the map's path as seen from its folder."""
        known = self.map._asdict()
        if self.map.source is not None:
            known["source"] = os.path.relpath(self.map.source, Path(path).parent)
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("policies", "successors")}
        state = {"kind": _KIND, "map": known, "gamma": self.gamma, "names": list(self.names), **arrays}
        write_state(path, state, STATE)

    @classmethod
    def load(cls, path: str | Path) -> LearnedCity:
        """Return what :meth:`save` wrote.

        Raises:
            ValueError: no whole file of a city.
            FileNotFoundError, IsADirectoryError: as ``read_state``.
        """
        state = read_state(path)
        if not isinstance(state, dict) or state.get("kind") != _KIND:
            raise ValueError(f"{path} holds no city")
        known = CityMap(**state["map"])
        if known.source is not None:
            known = known._replace(source=os.path.normpath(Path(path).parent / known.source))
        arrays = (state[name].numpy() for name in ("policies", "successors"))
        return cls(known, known.city(), state["gamma"], tuple(state["names"]), *arrays)


def learn_city(known: CityMap, gamma: float) -> LearnedCity:
    """Return the city with its library: the lazy walk, and for each place a policy that seeks it and one that shuns all
    others besides.

    Args:
        known: map of the city.
        gamma: the discount, at least 0 and below 1.

    Raises:
        ValueError: gamma outside [0, 1), or no map.
    """
    gamma, city = check_gamma(gamma, "--gamma"), known.city()
    steps = gridworld.transitions(city.next, city.probability)
    walk = gridworld.lazy_walk(steps, _activity(steps, gamma))
    first, policies = gridworld.factorize(steps, walk, gamma), {"walk": walk}
    for avoid in range(min(len(city.places), 2)):  # to shun others takes two places
        for name, weights in zip(city.places, gridworld.basis_weights(len(city.places), avoid), strict=True):
            rewards = city.features() @ weights
            start = gridworld.greedy(first.features(rewards))
            best = gridworld.policy_iteration(steps, rewards, gamma, start).actions
            policies[f"to {name}" + ", no other" * avoid] = gridworld.soften(best, _SOFT, steps.actions)
    kept = np.stack(list(policies.values()))
    every_cell = len(kept) * len(city) ** 2 <= _MOST
    features = np.eye(len(city)) if every_cell else city.features() if city.places else np.zeros((len(city), 0))
    return LearnedCity(known, city, gamma, tuple(policies), kept, _successors(steps, kept, features, gamma))


def _activity(steps: gridworld.Transitions, gamma: float) -> float:
    """Return how lazy the walk may be: the lazier the better, as long as the farthest cell is not lost in rounding."""
    there = gridworld.distances(steps, 0)
    far = np.where(np.isfinite(there), there, 0).argmax()
    back = gridworld.distances(steps, int(far))
    longest = max(there[far], back[np.isfinite(back)].max())  # of two sweeps: seldom far below the longest of all
    for activity in (0.05, 0.1, 0.2, 0.5):
        each = activity / steps.actions
        fall = gamma * each / (1 - gamma * (1 - (steps.actions - 1) * each))  # of the walk's map with each step away
        if fall**longest > 10.0**-_DECADES:
            return activity
    return 1.0


def _successors(steps: gridworld.Transitions, policies: ndarray, features: ndarray, gamma: float) -> ndarray:
    """Return u, (policies, states) or (policies, states, d), of features (states,) or (states, d)."""
    if not features.size:
        return np.zeros((len(policies), *features.shape))
    return np.stack([gridworld.factorize(steps, policy, gamma).solve(features) for policy in policies])

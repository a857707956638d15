"""Agents moved together go where agents moved alone would go."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.gridworld.layouts import four_rooms, maze, open_grid, street_city, town
from simulators.gridworld.walkers import Walkers


def test_many_agents_on_many_maps_walk_as_each_would_alone():
    cities = [four_rooms(), maze(9), street_city()]
    rng = np.random.default_rng(0)
    walkers = Walkers(cities, 50)
    states = walkers.reset(rng)
    alone = states.copy()
    for _ in range(40):
        actions = rng.integers(5, size=50)
        states = walkers.step(actions)
        alone = np.array([cities[m].next[s, a, 0] for m, s, a in zip(walkers.maps, alone, actions, strict=True)])
        np.testing.assert_array_equal(states, alone)


def test_a_slippery_step_ends_as_often_in_each_cell_as_its_probability():
    city = town()
    state, action, agents = city.state(8, 5), 0, 40_000
    walkers = Walkers([city, open_grid(4)], agents, maps=np.zeros(agents, dtype=int))
    walkers.reset(np.random.default_rng(1), starts=np.full(agents, state))
    share = np.bincount(walkers.step(np.full(agents, action)), minlength=len(city)) / agents
    truth = city.matrices()[action].toarray()[state]
    np.testing.assert_array_equal(share > 0, truth > 0)
    assert np.abs(share - truth).max() < 5 * np.sqrt(0.25 / agents)


def test_certain_cells_of_a_slippery_city_stay_certain():
    city = town()
    plain = np.flatnonzero(city.probability[:, 0, 0] == 1)
    walkers = Walkers(city, len(plain))
    for action in range(5):
        walkers.reset(np.random.default_rng(action), starts=plain)
        np.testing.assert_array_equal(walkers.step(np.full(len(plain), action)), city.next[plain, action, 0])


def test_starts_are_even_over_the_cells_of_each_map():
    walkers = Walkers([open_grid(2), open_grid(3)], 36_000)
    states = walkers.reset(np.random.default_rng(0))
    for number, cells in enumerate((4, 9)):
        counts = np.bincount(states[walkers.maps == number], minlength=cells)
        assert len(counts) == cells
        assert np.abs(counts - 18_000 / cells).max() < 5 * np.sqrt(18_000 / cells)


def test_the_same_seed_gives_the_same_walk_and_states_are_the_callers_own():
    walks = []
    for _ in range(2):
        walkers = Walkers(town(), 100)
        walks.append([walkers.reset(np.random.default_rng(4))])
        for action in (0, 1, 2, 3, 2, 2):
            walks[-1].append(walkers.step(np.full(100, action)))
            walkers.states[:] = 0
    for a, b in zip(*walks, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(walks[0], walks[0][1:], strict=False))


def test_only_the_agents_of_the_mask_restart():
    walkers = Walkers(four_rooms(), 4)
    walkers.reset(np.random.default_rng(0), starts=np.array([5, 6, 7, 8]))
    assert walkers.restart(np.array([False, True, False, True]), np.array([1, 2])).tolist() == [5, 1, 7, 2]


def test_bad_input_is_refused_by_name():
    walkers = Walkers(open_grid(2), 3)
    with pytest.raises(ValueError, match="call reset"):
        walkers.step(np.zeros(3, dtype=int))
    walkers.reset(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"actions must be \(3,\)"):
        walkers.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.4; got -1"):
        walkers.step(np.array([0, -1, 0]))
    with pytest.raises(ValueError, match="every start must be a state"):
        walkers.reset(np.random.default_rng(0), starts=np.array([0, 4, 0]))
    for which in ([0, 1], [0, 1, 0], [True, False]):
        with pytest.raises(ValueError, match=r"mask, \(3,\) booleans"):
            walkers.restart(which)
    with pytest.raises(ValueError, match="cities must be a City or several"):
        Walkers("town", 3)
    with pytest.raises(ValueError, match="at least one city"):
        Walkers([], 3)
    with pytest.raises(ValueError, match="maps must be"):
        Walkers(open_grid(2), 2, maps=np.array([0, 1]))

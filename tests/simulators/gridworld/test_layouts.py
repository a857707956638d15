"""Ready maps: their sizes as defined, connected, large ones at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from simulators.gridworld.layouts import LAYOUTS, four_rooms, maze, open_grid, scatter_places, street_city


def parts(city):
    return connected_components(sum(city.matrices()), connection="strong")[0]


def edges(city):
    """Return the number of pairs of neighbouring cells."""
    return int(sum((city.next[:, action, 0] != np.arange(len(city))).sum() for action in (1, 3)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_every_cell_every_other_is_reached(name):
    assert parts(LAYOUTS[name]()) == 1


def test_four_rooms_have_walls_in_the_middle_and_four_doors():
    city = four_rooms(13)
    assert len(city) == 148
    wall = city.index < 0
    assert np.flatnonzero(~wall[6]).tolist() == [3, 10]
    assert np.flatnonzero(~wall[:, 6]).tolist() == [3, 10]
    assert not np.delete(np.delete(wall, 6, 0), 6, 1).any()


def test_the_usual_street_city_has_287_cells_and_a_generator_gives_the_same_again():
    assert len(street_city(25)) == 287
    first, again, other = (street_city(25, np.random.default_rng(seed)) for seed in (12, 12, 13))
    assert first.rows == again.rows == street_city(25).rows != other.rows


def test_streets_without_closures_run_along_every_fourth_row_and_column():
    city = street_city(25, closed=0.0)
    free = city.index >= 0
    street = np.arange(25) % 4 == 0
    np.testing.assert_array_equal(free, street[:, None] | street)


def test_about_as_many_stretches_are_closed_as_asked():
    open_cells = len(street_city(201, closed=0.0))
    closed = open_cells - len(street_city(201, np.random.default_rng(0), closed=0.15))
    stretches = 2 * 51 * 50
    spread = np.sqrt(stretches * 0.15 * 0.85)
    # Cells that closures cut off add some: a corner of one crossing needs two closures side by side.
    assert -4 * spread < closed - 0.15 * stretches < 4 * spread + 0.05 * stretches


def test_a_maze_without_loops_has_one_path_between_cells_and_loops_add_some():
    city = maze(31, 41, np.random.default_rng(3))
    assert len(city) == 2 * 16 * 21 - 1
    assert edges(city) == len(city) - 1
    assert parts(city) == 1
    looped = maze(31, 41, np.random.default_rng(3), loops=0.3)
    assert edges(looped) > len(looped) - 1


def test_mazes_differ_with_the_generator():
    assert maze(15, rng=np.random.default_rng(1)).rows != maze(15, rng=np.random.default_rng(2)).rows


def test_places_are_scattered_on_different_cells():
    city = scatter_places(four_rooms(), [f"p{i}" for i in range(148)], np.random.default_rng(0))
    assert sorted(int(states[0]) for states in city.places.values()) == list(range(148))


@pytest.mark.parametrize(
    "build", [lambda: open_grid(320), lambda: maze(449), lambda: street_city(490), lambda: four_rooms(320)]
)
def test_a_hundred_thousand_cells_are_built_well_under_a_second(build):
    start = time.process_time()
    city = build()
    city.matrices()
    assert time.process_time() - start < 1.0
    assert len(city) > 100_000


def test_impossible_sizes_are_refused():
    for build in (lambda: four_rooms(4), lambda: open_grid(0), lambda: maze(3, -1), lambda: street_city(2.5)):
        with pytest.raises(ValueError, match="whole number"):
            build()
    with pytest.raises(ValueError, match="block"):
        street_city(25, block=0)
    with pytest.raises(ValueError, match="closed must be a probability"):
        street_city(25, closed=1.5)
    with pytest.raises(ValueError, match="loops must be a share"):
        maze(5, loops=float("nan"))
    with pytest.raises(ValueError, match="names must differ"):
        scatter_places(open_grid(2), ["a", "a"], np.random.default_rng(0))

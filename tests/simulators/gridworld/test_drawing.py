"""Pictures show the map: sizes, colours, values in order, routes where they run."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.gridworld.city import read_city
from simulators.gridworld.drawing import AGENT, FLOOR, PLACES, ROUTE, WALL, Window, as_text, draw
from simulators.gridworld.layouts import four_rooms, maze, town


def centre(picture, size, row, col):
    return picture[row * size + size // 2, col * size + size // 2]


@pytest.mark.parametrize("size", [1, 2, 5, 8, 24])
def test_a_picture_has_so_many_pixels_a_cell_and_dark_walls(size):
    city = four_rooms()
    picture = draw(city, size=size)
    assert picture.shape == (13 * size, 13 * size, 3) and picture.dtype == np.uint8
    for row, col in np.argwhere(city.index < 0):
        np.testing.assert_array_equal(centre(picture, size, row, col), WALL)
    np.testing.assert_array_equal(centre(picture, size, 0, 0), FLOOR)


def test_a_higher_value_is_lighter():
    city = read_city("." * 50)
    picture = draw(city, values=np.linspace(-3, 7, 50), size=1)[0].astype(float)
    light = picture @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) > 0).all()


def test_equal_values_are_drawn_and_unknown_ones_left_plain():
    picture = draw(read_city("..."), values=np.array([2.0, 2.0, np.nan]), size=1)
    np.testing.assert_array_equal(picture[0, 0], picture[0, 1])
    np.testing.assert_array_equal(picture[0, 2], FLOOR)


def test_limits_make_two_pictures_comparable():
    city = read_city("..")
    low, high = (draw(city, values=np.array(v), size=1, limits=(0, 10)) for v in ((0.0, 5.0), (5.0, 10.0)))
    np.testing.assert_array_equal(low[0, 1], high[0, 0])


def test_a_route_runs_through_its_cells_and_no_others():
    city = four_rooms()
    route = [city.state(3, col) for col in range(3, 10)] + [city.state(4, 9)]
    bare, drawn = draw(city, size=20), draw(city, route=route, size=20)
    changed = (bare != drawn).any(-1).reshape(13, 20, 13, 20).any((1, 3))
    np.testing.assert_array_equal(np.argwhere(changed), city.cells[np.sort(route)])
    for state in route:
        np.testing.assert_array_equal(centre(drawn, 20, *city.cells[state]), ROUTE)
    for (row, col), (to_row, to_col) in zip(city.cells[route], city.cells[route[1:]], strict=False):
        x, y = 10 * (col + to_col + 1), 10 * (row + to_row + 1)  # the middle of the edge they share
        np.testing.assert_array_equal(drawn[y - 1 : y + 1, x - 1 : x + 1], np.broadcast_to(ROUTE, (2, 2, 3)))


def test_places_keep_their_colour_on_pictures_of_values():
    city = town()
    picture = draw(city, values=np.zeros(len(city)), size=21)
    for number, name in enumerate(city.places):
        row, col = city.cells[city.place(name)[0]]
        # Left of the letter, inside the disc.
        np.testing.assert_array_equal(picture[row * 21 + 10, col * 21 + 3], PLACES[number])


def test_the_agent_is_seen_at_every_size():
    city = four_rooms()
    for size in (1, 6, 30):
        np.testing.assert_array_equal(centre(draw(city, agent=5, size=size), size, 0, 5), AGENT)


def test_large_maps_are_drawn_small():
    assert draw(maze(447)).shape == (447, 447, 3)
    assert draw(maze(99)).shape == (8 * 99, 8 * 99, 3)


def test_text_marks_the_agent_and_names_the_place():
    assert as_text(read_city("L.\n.#", {"L": "library"}), 0) == "@.\n.#\n@ row 0, column 0, library\n"


def test_a_window_without_a_screen_shows_nothing_and_closes():
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    window = Window("test", 30)
    for agent in (0, 1):
        window.show(draw(four_rooms(), agent=agent))
    window.close()
    matplotlib.use(before)


def test_bad_input_is_refused():
    city = four_rooms()
    with pytest.raises(ValueError, match=r"values must be \(148,\)"):
        draw(city, values=np.zeros(3))
    with pytest.raises(ValueError, match="jumps from state 0 to 5"):
        draw(city, route=[0, 5])
    with pytest.raises(ValueError, match="leaves the city"):
        draw(city, route=[147, 148])
    with pytest.raises(ValueError, match="whole numbers in a row"):
        draw(city, route=[])
    with pytest.raises(ValueError, match="at least 1 pixel"):
        draw(city, size=0)
    with pytest.raises(ValueError, match="whole number"):
        draw(city, size=2.5)
    for agent in (-1, 148, 1.0):
        for size in (1, 10):
            with pytest.raises(ValueError, match=r"agent must be a state in 0\.\.147"):
                draw(city, agent=agent, size=size)
    for limits in ((float("nan"), 1), (0, float("inf")), (2, 1), (0, 1, 2)):
        with pytest.raises(ValueError, match="two finite numbers, the lesser first"):
            draw(city, values=np.zeros(148), limits=limits)

"""Cities read from maps: every transition as the rules of the map say, and errors that help."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.gridworld.city import ACTIONS, MOVES, City, grid_city, read_city
from simulators.gridworld.layouts import four_rooms, maze, open_grid, street_city, town

MAP = """\
A.~~#.
.#^.v9
~.<>~
..#b..
"""
AGAINST = {"^": "south", "v": "north", "<": "east", ">": "west"}
SIDES = {"north": "we", "south": "we", "west": "ns", "east": "ns"}
SHORT = {"n": 0, "s": 1, "w": 2, "e": 3}


def one_move(rows: list[str], row: int, col: int, action: int) -> tuple[int, int]:
    """Return the cell where a move that does not slip ends, by the rules one by one."""
    to_row, to_col = row + MOVES[action][0], col + MOVES[action][1]
    inside = 0 <= to_row < len(rows) and 0 <= to_col < len(rows[0])
    if not inside or rows[to_row][to_col] == "#":
        return row, col
    if ACTIONS[action] in (AGAINST.get(rows[row][col]), AGAINST.get(rows[to_row][to_col])):
        return row, col
    return to_row, to_col


def distribution(city: City, slip: float, state: int, action: int) -> np.ndarray:
    rows, (row, col), found = list(city.rows), city.cells[state], np.zeros(len(city))
    name = ACTIONS[action]
    if rows[row][col] == "~" and name != "stay":
        found[city.index[one_move(rows, row, col, action)]] += 1 - slip
        for side in SIDES[name]:
            found[city.index[one_move(rows, row, col, SHORT[side])]] += slip / 2
    else:
        found[city.index[one_move(rows, row, col, action)]] += 1
    return found


@pytest.mark.parametrize("slip", [0.2, 0.7, 1.0])
def test_every_transition_is_what_the_rules_say_one_by_one(slip):
    city = read_city(MAP, slip=slip)
    matrices = [matrix.toarray() for matrix in city.matrices()]
    for state in range(len(city)):
        for action in range(5):
            truth = distribution(city, slip, state, action)
            np.testing.assert_allclose(matrices[action][state], truth, rtol=0, atol=1e-15)
            dense = np.bincount(city.next[state, action], city.probability[state, action], minlength=len(city))
            np.testing.assert_allclose(dense, truth, rtol=0, atol=1e-15)


def test_a_one_way_street_is_passed_only_along_its_arrow():
    city = read_city(".>.")
    assert city.next[:, 3, 0].tolist() == [1, 2, 2]
    assert city.next[:, 2, 0].tolist() == [0, 1, 2]


def test_a_one_way_cell_is_left_and_entered_from_the_sides():
    city = read_city(".\n>\n.")
    assert city.next[:, 1, 0].tolist() == [1, 2, 2]
    assert city.next[:, 0, 0].tolist() == [0, 0, 1]


def test_a_city_without_slippery_cells_has_one_outcome_and_one_with_them_three():
    assert four_rooms().next.shape == (148, 5, 1)
    assert town().next.shape == (len(town()), 5, 3)
    assert read_city("~.", slip=0.0).next.shape == (2, 5, 1)


@pytest.mark.parametrize("city", [four_rooms(), street_city(), maze(15), town()], ids=lambda city: city.name)
def test_the_arrays_of_a_city_agree_with_each_other(city):
    assert city.next.dtype == np.int64 and city.probability.dtype == np.float64
    assert city.next.min() >= 0 and city.next.max() < len(city)
    np.testing.assert_allclose(city.probability.sum(-1), 1, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(city.index[tuple(city.cells.T)], np.arange(len(city)))
    assert (city.index >= 0).sum() == len(city)
    np.testing.assert_array_equal(city.next[:, 4, 0], np.arange(len(city)))
    for matrix in city.matrices():
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-15)


def test_places_have_names_and_all_their_cells():
    city = read_city("L.P\nP#7", {"P": "park", "L": "library"})
    assert list(city.places) == ["park", "library", "7"]
    assert city.place("park").tolist() == [2, 3]
    features = city.features()
    assert features.shape == (5, 3)
    np.testing.assert_array_equal(features[:, 0], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(features.sum(0), [2, 1, 1])


def test_two_symbols_of_one_name_are_one_place():
    assert read_city("a.b", {"a": "park", "b": "park"}).place("park").tolist() == [0, 2]


def test_a_city_without_places_has_every_cell_as_feature():
    np.testing.assert_array_equal(read_city("..#.").features(), np.eye(3))


def test_short_rows_end_in_walls_and_empty_rows_around_are_dropped():
    city = read_city("\n...\n.\n\n\n")
    assert city.rows == ("...", ".##")


def test_rows_of_spaces_are_free_but_for_the_indent_of_closing_quotes():
    assert read_city("   \n###\n   \n").rows == ("...", "###", "...")
    assert read_city("  ").rows == ("..",)
    assert read_city("\n...\n.#.\n    ").rows == ("...", ".#.")


@pytest.mark.parametrize("name", ["streets", "streets.text", "four rooms", "old/town"])
def test_a_name_is_not_taken_for_a_map_of_one_row(name):
    with pytest.raises(ValueError, match="no such map"):
        read_city(name)


@pytest.mark.parametrize("text", ["PPP", "vvP", "A..B", "a~b", "S1G", "\nabc"])
def test_one_row_of_symbols_is_a_map(text):
    assert read_city(text).rows == (text.strip(),)


def test_a_file_may_begin_with_a_byte_order_mark_but_must_be_text(tmp_path):
    path = tmp_path / "marked.map"
    path.write_text("L.\n", encoding="utf-8-sig")
    assert read_city(path).rows == ("L.",)
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"marked\.map is not a text file in UTF-8"):
        read_city(path)


def test_a_place_handed_out_is_the_callers_own():
    city = read_city("L.L")
    city.place("L")[:] = 1
    assert city.place("L").tolist() == [0, 2]


def test_a_large_city_without_places_has_no_feature_for_every_cell():
    with pytest.raises(ValueError, match=r"has no places and 10100 cells, too many .* by with_places"):
        open_grid(101, 100).features()


def test_a_map_is_read_from_a_file_and_named_by_it(tmp_path):
    path = tmp_path / "old_town.txt"
    path.write_text(MAP, encoding="utf-8")
    for given in (path, str(path)):
        city = read_city(given)
        assert city.name == "old_town"
        np.testing.assert_array_equal(city.next, read_city(MAP).next)


def test_a_grid_of_booleans_is_a_city_too():
    free = np.array([[True, False], [True, True]])
    assert grid_city(free, name="yard").rows == (".#", "..")


def test_states_are_found_by_row_and_column():
    city = read_city(".#\n..")
    assert [city.state(0, 0), city.state(1, 0), city.state(1, 1)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("###\n###", "no free cell"),
        ("", "empty"),
        ("..\n.?", r"unknown symbol '\?' in row 1, column 1"),
    ],
)
def test_a_map_that_is_none_says_why(text, message):
    with pytest.raises(ValueError, match=message):
        read_city(text)


def test_errors_list_what_would_be_right():
    city = read_city("L.#", {"L": "library"})
    with pytest.raises(ValueError, match=r"Unknown place 'park' .* places are library"):
        city.place("park")
    with pytest.raises(ValueError, match="is a wall"):
        city.state(0, 2)
    with pytest.raises(ValueError, match=r"outside the map.*columns 0..2"):
        city.state(0, -1)
    for cell in ((0.5, 0), (0, "a")):
        with pytest.raises(ValueError, match="row and column must be whole numbers"):
            city.state(*cell)
    with pytest.raises(ValueError, match="slip must be a probability"):
        read_city("~", slip=float("nan"))
    with pytest.raises(ValueError, match="no cell is marked 'Q'"):
        read_city("L.", {"Q": "quay"})
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
        city.with_places({"park": 2})
    with pytest.raises(ValueError, match="whole numbers"):
        city.with_places({"park": []})
    with pytest.raises(ValueError, match="height, width"):
        grid_city(np.ones(3, dtype=bool), name="line")
    with pytest.raises(FileNotFoundError):
        read_city("nowhere.txt")

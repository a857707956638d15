"""Ready maps of any size: rooms, streets, open grids, mazes, and a small town with places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from simulators.gridworld.city import City, grid_city, read_city

_STREET_SEED = 12

TOWN = """\
L....#....>>>...S
.###.#.##.###.##.
.#...#.#....#.#..
.#.###.#.PP.#.#.#
.........PP......
.#.###.#.PP.#.#.#
.#...#.#....#....
.###.#.##.###.##.
M...~~~...<<<...C
"""
"""The map of :func:`town`."""


def four_rooms(n: int = 13) -> City:
    """Return four rooms on n x n cells: walls on the middle row and column, with a door in each of the four walls.

    The doors are at n // 2 // 2 and n // 2 + 1 + n // 2 // 2; n = 13 has 148 cells.

    Reference: Sutton, Precup, Singh, Artif. Intell. 112, 181 (1999), the idea of the map.

    >>> len(four_rooms(13))
    148
    """
    _check_size("four_rooms", n, least=5)
    middle = n // 2
    doors = [middle // 2, middle + 1 + middle // 2]
    free = np.ones((n, n), dtype=bool)
    free[middle] = free[:, middle] = False
    free[middle, doors] = free[doors, middle] = True
    return grid_city(free, name="four rooms")


def street_city(n: int = 25, rng: np.random.Generator | None = None, *, block: int = 3, closed: float = 0.15) -> City:
    """Return streets one cell wide round square blocks, on n x n cells; some stretches are closed in their middle.

    Each stretch between two crossings is closed with the same probability, by a wall on its middle cell; what is then
    cut off from the largest part of the city is wall too.

    Args:
        n: cells along each side; a multiple of block + 1, plus 1, lets streets run along all four sides.
        rng: source of randomness; None for the generator of seed 12, whose city of 25 x 25 has 287 cells.
        block: cells along each side of a block.
        closed: probability that a stretch is closed.

    Raises:
        ValueError: sizes that are not whole numbers, 1 or more, or a probability outside [0, 1].

    >>> len(street_city(25))
    287
    """
    _check_size("street_city", n, least=1)
    _check_size("street_city", block, least=1, what="block")
    if not 0 <= closed <= 1:
        raise ValueError(f"street_city: closed must be a probability, from 0 to 1; got {closed}")
    rng = np.random.default_rng(_STREET_SEED) if rng is None else rng
    period = block + 1
    street = np.arange(n) % period == 0
    free = street[:, None] | street
    middles = np.arange(period - period // 2, n, period)
    open_rows = rng.random((street.sum(), len(middles))) >= closed
    open_columns = rng.random((len(middles), street.sum())) >= closed
    free[np.ix_(np.flatnonzero(street), middles)] = open_rows
    free[np.ix_(middles, np.flatnonzero(street))] = open_columns
    return grid_city(_largest_part(free), name="street city")


def open_grid(height: int, width: int | None = None) -> City:
    """Return a grid without walls, square if no width is given.

    >>> open_grid(3, 4)
    City('open grid', 3 x 4, 12 states)
    """
    width = height if width is None else width
    _check_size("open_grid", height, least=1)
    _check_size("open_grid", width, least=1)
    return grid_city(np.ones((height, width), dtype=bool), name="open grid")


def maze(height: int, width: int | None = None, rng: np.random.Generator | None = None, *, loops: float = 0.0) -> City:
    """Return a maze: one path between any two cells, the random spanning tree of least weight of a lattice of cells.

    Args:
        height: cells; odd numbers leave no row of walls at the end.
        width: cells; as height if None.
        rng: source of randomness; None for the generator of seed 0.
        loops: share of the remaining walls between neighbouring corridors that are opened, so that there are detours.

    Raises:
        ValueError: sizes that are not whole numbers, 1 or more, or loops outside [0, 1].

    >>> len(maze(11, 11))
    71
    """
    width = height if width is None else width
    _check_size("maze", height, least=1)
    _check_size("maze", width, least=1)
    if not 0 <= loops <= 1:
        raise ValueError(f"maze: loops must be a share, from 0 to 1; got {loops}")
    rng = np.random.default_rng(0) if rng is None else rng
    rooms = np.arange((height + 1) // 2 * ((width + 1) // 2)).reshape((height + 1) // 2, -1)
    ends = [(rooms[:-1], rooms[1:]), (rooms[:, :-1], rooms[:, 1:])]
    start = np.concatenate([a.ravel() for a, _ in ends])
    stop = np.concatenate([b.ravel() for _, b in ends])
    weight = rng.uniform(1, 2, len(start))  # a weight of 0 would be no edge to SciPy
    tree = minimum_spanning_tree(coo_array((weight, (start, stop)), shape=(rooms.size, rooms.size)).tocsr()).tocoo()
    extra = rng.random(len(start)) < loops
    start, stop = np.concatenate([tree.row, start[extra]]), np.concatenate([tree.col, stop[extra]])
    free = np.zeros((height, width), dtype=bool)
    free[::2, ::2] = True
    (row, col), (other_row, other_col) = np.divmod(start, rooms.shape[1]), np.divmod(stop, rooms.shape[1])
    free[row + other_row, col + other_col] = True
    return grid_city(free, name="maze")


def town() -> City:
    """Return a small town of five places, with two one-way streets and an icy one.

    >>> list(town().places)
    ['library', 'station', 'park', 'market', 'cafe']
    """
    names = {"L": "library", "S": "station", "P": "park", "M": "market", "C": "cafe"}
    return read_city(TOWN, names, name="town")


LAYOUTS: dict[str, Callable[[], City]] = {
    "town": town,
    "four_rooms": four_rooms,
    "street_city": street_city,
    "open_grid": lambda: open_grid(10),
    "maze": lambda: maze(21),
}
"""Maps by name, in their usual sizes."""


def scatter_places(city: City, names: Sequence[str], rng: np.random.Generator) -> City:
    """Return the city with one place of each name, on different cells drawn evenly.

    >>> sorted(scatter_places(four_rooms(), ["park", "station"], np.random.default_rng(0)).places)
    ['park', 'station']
    """
    if len(set(names)) != len(names) or len(names) > len(city):
        raise ValueError(
            f"scatter_places: names must differ and be at most {len(city)}, the cells of the city; got {list(names)}"
        )
    cells = rng.choice(len(city), len(names), replace=False)
    return city.with_places(dict(zip(names, cells.tolist(), strict=True)))


def _largest_part(free: ndarray) -> ndarray:
    """Return which free cells belong to the largest connected part."""
    parts, _ = label(free)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return free & (parts == sizes.argmax())


def _check_size(where: str, size: int, *, least: int, what: str = "size") -> None:
    if size != int(size) or size < least:
        raise ValueError(f"{where}: the {what} must be a whole number, {least} or more; got {size}")

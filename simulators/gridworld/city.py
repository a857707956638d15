"""A city as a finite Markov decision process: cells, places, and where each of five actions leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array

from simulators.gridworld.map_text import PLAIN, map_rows

ACTIONS = ("north", "south", "west", "east", "stay")
"""The five actions in their order; north is one row up."""

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])
"""(5, 2) change of row and column of each action."""

_SIDEWAYS = np.array([(2, 3), (2, 3), (0, 1), (0, 1), (4, 4)])
# The arrow that forbids each action.
_AGAINST = "v^><"
_MOST_CELLS = 10_000


@dataclass(frozen=True, eq=False, repr=False)
class City:
    """A map and its transitions; states are the free cells, row by row.

    Attributes:
        name: what the city is called.
        rows: the map as text, one string a row, all equally long.
        cells: (states, 2) row and column of each state.
        index: (height, width) state of each cell, -1 at walls.
        places: name -> (cells,) states of that place.
        next: (states, 5, outcomes) state that follows; one outcome, or three in a city with slippery cells.
        probability: (states, 5, outcomes) of each outcome.
    """

    name: str
    rows: tuple[str, ...]
    cells: ndarray
    index: ndarray
    places: dict[str, ndarray]
    next: ndarray
    probability: ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        height, width = self.index.shape
        places = f", places {', '.join(self.places)}" if self.places else ""
        return f"City({self.name!r}, {height} x {width}, {len(self)} states{places})"

    def __str__(self) -> str:
        return "\n".join(self.rows)

    def state(self, row: int, col: int) -> int:
        """Return the state of the cell at (row, col), both counted from 0 at the top left."""
        height, width = self.index.shape
        if not (isinstance(row, int | np.integer) and isinstance(col, int | np.integer)):
            raise ValueError(f"state: row and column must be whole numbers; got ({row!r}, {col!r})")
        if not (0 <= row < height and 0 <= col < width):
            raise ValueError(
                f"state: ({row}, {col}) is outside the map, whose rows are 0..{height - 1} and columns 0..{width - 1}"
            )
        if self.index[row, col] < 0:
            raise ValueError(f"state: the cell ({row}, {col}) is a wall; choose a free one")
        return int(self.index[row, col])

    def place(self, name: str) -> ndarray:
        """Return the (cells,) states of a place, as an array of the caller's own."""
        if name not in self.places:
            known = ", ".join(self.places) or "none; add some by with_places"
            raise ValueError(f"Unknown place {name!r} of city {self.name!r}; its places are {known}")
        return self.places[name].copy()

    def with_places(self, places: Mapping[str, Sequence[int] | ndarray | int]) -> City:
        """Return the same city with other places: name -> state or states.

        >>> read_city("...").with_places({"park": 2}).place("park")
        array([2])
        """
        checked = {}
        for name, states in places.items():
            states = np.atleast_1d(np.asarray(states))
            if states.dtype.kind not in "iu" or states.ndim != 1 or not len(states):
                raise ValueError(f"with_places: the states of {name!r} must be whole numbers; got {states!r}")
            if states.min() < 0 or states.max() >= len(self):
                raise ValueError(
                    f"with_places: the states of {name!r} must lie in 0..{len(self) - 1}; got "
                    f"{states.min()}..{states.max()}"
                )
            checked[name] = states.astype(np.int64)
        return replace(self, places=checked)

    def features(self) -> ndarray:
        """Return (states, places) indicators of the places, in their order; of every cell, (states, states), where the
        city has no places; a ValueError says so where that would be more than 10,000 cells."""
        if not self.places and len(self) > _MOST_CELLS:
            raise ValueError(
                f"features: the city {self.name!r} has no places and {len(self)} cells, too many for a feature each "
                f"(at most {_MOST_CELLS}); give it places by with_places"
            )
        if not self.places:
            return np.eye(len(self))
        features = np.zeros((len(self), len(self.places)))
        for column, states in enumerate(self.places.values()):
            features[states, column] = 1
        return features

    def matrices(self) -> list[csr_array]:
        """Return the (states, states) sparse transition matrix of each action.

        >>> read_city("..").matrices()[3].toarray()
        array([[0., 1.],
               [0., 1.]])
        """
        states, actions, outcomes = self.next.shape
        ends = np.arange(0, states * outcomes + 1, outcomes)
        found = []
        for action in range(actions):
            data, columns = self.probability[:, action].ravel(), self.next[:, action].ravel()
            matrix = csr_array((data, columns, ends), shape=(states, states), copy=True)
            matrix.sum_duplicates()
            matrix.eliminate_zeros()
            found.append(matrix)
        return found


def read_city(
    text_or_path: str | Path, places: Mapping[str, str] | None = None, *, slip: float = 0.2, name: str | None = None
) -> City:
    """Return the city of an ASCII map.

    ``#`` is a wall; ``.`` or a space is free; on ``~`` feet slip: a move goes to either side, with probability slip / 2
    each; ``^ v < >`` are one-way cells, which no move enters or leaves against the arrow; other letters and digits are
    places. Outside the map and behind short rows are walls; moves into walls stay. Empty rows above and below are
    dropped, and so are spaces after the last line break, which a triple-quoted string leaves; other rows of spaces are
    free cells, and indented text has free cells in front (``textwrap.dedent`` removes them).

    Args:
        text_or_path: the map, or the path of a file that holds it (a Path, or a string that ends in .txt or .map).
        places: symbol -> name of the place, as {"L": "library"}; a symbol without a name is called by its letter.
        slip: probability that a move from a slippery cell goes sideways.
        name: of the city; the file's name if None.

    Raises:
        ValueError: no free cell, an unknown symbol, a place whose symbol is not on the map, slip outside [0, 1], a name
            (one line with a word in it) or a file that is not text.
        FileNotFoundError: there is no such file.

    >>> city = read_city("L.#\\n.~P", {"L": "library", "P": "park"})
    >>> city
    City('city', 2 x 3, 5 states, places library, park)
    >>> int(city.next[city.place("library")[0], 3, 0]), city.state(0, 1)
    (1, 1)
    """
    rows, its_name = map_rows(text_or_path)
    name = name or its_name
    width = max(map(len, rows), default=0)
    if width == 0:
        raise ValueError(f"read_city: the map of {name!r} is empty; draw free cells as '.' and walls as '#'")
    symbols = np.array([list(row.ljust(width, "#")) for row in rows])
    return grid_city(symbols, places, slip=slip, name=name)


def grid_city(symbols: ndarray, places: Mapping[str, str] | None = None, *, slip: float = 0.2, name: str) -> City:
    """Return the city of a (height, width) array of symbols, or of booleans that say which cells are free.

    Arguments and errors as :func:`read_city`.

    >>> grid_city(np.ones((2, 3), dtype=bool), name="yard")
    City('yard', 2 x 3, 6 states)
    """
    symbols = np.asarray(symbols)
    if symbols.ndim != 2:
        raise ValueError(f"grid_city: symbols must be (height, width); got {symbols.shape}")
    if symbols.dtype == bool:
        symbols = np.where(symbols, ".", "#")
    if not 0 <= slip <= 1:
        raise ValueError(f"{name}: slip must be a probability, from 0 to 1; got {slip}")
    symbols = np.where(symbols == " ", ".", symbols)
    free = symbols != "#"
    if not free.any():
        raise ValueError(f"{name}: the map has no free cell; draw some as '.'")
    cells = np.argwhere(free)
    index = np.full(free.shape, -1)
    index[free] = np.arange(len(cells))
    named = _places(symbols, index, dict(places or {}), name)
    after, chance = _transitions(symbols, cells, index, slip)
    rows = tuple("".join(row) for row in symbols)
    return City(name, rows, cells, index, named, after, chance)


def _places(symbols: ndarray, index: ndarray, names: dict[str, str], city: str) -> dict[str, ndarray]:
    """Return the states of each place: those of ``names`` first, in its order, then the letters without a name."""
    letters = [str(symbol) for symbol in np.unique(symbols) if str(symbol) not in PLAIN]
    for symbol in letters:
        if not (symbol.isalpha() or symbol.isdigit()):
            row, col = np.argwhere(symbols == symbol)[0]
            raise ValueError(
                f"{city}: unknown symbol {symbol!r} in row {row}, column {col}; use # for walls, . or space for free "
                "cells, ~ for slippery ones, ^ v < > for one-way ones, other letters and digits for places"
            )
    absent = [symbol for symbol in names if symbol not in letters]
    if absent:
        raise ValueError(
            f"{city}: no cell is marked {', '.join(map(repr, absent))}; the map has {letters or 'no places'}"
        )
    found: dict[str, list[ndarray]] = {}
    for symbol in [*names, *(letter for letter in letters if letter not in names)]:
        found.setdefault(names.get(symbol, symbol), []).append(index[symbols == symbol])
    return {name: np.sort(np.concatenate(states)) for name, states in found.items()}


def _transitions(symbols: ndarray, cells: ndarray, index: ndarray, slip: float) -> tuple[ndarray, ndarray]:
    """Return (states, 5, outcomes) next states and their probabilities."""
    states = np.arange(len(cells))
    around = np.pad(index, 1, constant_values=-1)
    signs = np.pad(symbols, 1, constant_values="#")
    here = signs[cells[:, 0] + 1, cells[:, 1] + 1]
    sure = np.empty((len(cells), 5), dtype=np.int64)
    sure[:, 4] = states
    for action, arrow in enumerate(_AGAINST):
        row, col = (cells + 1 + MOVES[action]).T
        ahead = around[row, col]
        barred = (ahead < 0) | (here == arrow) | (signs[row, col] == arrow)
        sure[:, action] = np.where(barred, states, ahead)
    slippery = here == "~"
    if not slippery.any() or slip == 0:
        return sure[..., None], np.ones((len(cells), 5, 1))
    after = np.repeat(sure[..., None], 3, axis=2)
    after[slippery, :, 1:] = sure[slippery][:, _SIDEWAYS]
    chance = np.zeros(after.shape)
    chance[..., 0] = 1
    chance[slippery, :4] = (1 - slip, slip / 2, slip / 2)
    return after, chance

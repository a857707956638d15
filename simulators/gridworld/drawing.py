"""Pictures of a city as arrays of pixels (walls, places, values and routes), in a window, and as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from simulators.gridworld.city import MOVES, City

WALL, FLOOR, ICE, LINE, ROUTE, AGENT, WHITE = (
    np.array(rgb, dtype=float)
    for rgb in (
        (36, 38, 46),
        (243, 240, 232),
        (203, 227, 241),
        (222, 218, 207),
        (214, 31, 74),
        (228, 26, 28),
        (255,) * 3,
    )
)

PLACES = np.array(
    [
        (0, 114, 178),
        (213, 94, 0),
        (0, 148, 108),
        (163, 73, 148),
        (176, 126, 0),
        (66, 150, 200),
        (120, 94, 240),
        (90, 90, 90),
    ],
    dtype=float,
)
"""(8, 3) colours of the places in their order, from the start again after the last; all apart to the colour-blind."""

MODES = ("rgb_array", "human", "ansi")
"""Ways to render: pixels, a window of matplotlib, text."""

# Seventeen even steps of viridis (van der Walt and Smith, matplotlib, CC0), lightness rising evenly.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 24, 106), (71, 45, 123), (66, 64, 134), (59, 82, 139), (51, 99, 141), (44, 114, 142),
        (38, 130, 142), (33, 145, 140), (31, 160, 136), (40, 174, 128), (63, 188, 115), (94, 201, 98), (132, 212, 75),
        (173, 220, 48), (216, 226, 25), (253, 231, 37),
    ],
    dtype=float,
)  # fmt: skip

# Letters of 5 x 7 dots, seven base-32 digits each: one a row, whose five bits are the dots from left to right.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_DOTS = (
    "EHHVHHHUHHUHHUEHGGGHEUHHHHHUVGGUGGVVGGUGGGEHGNHHFHHHVHHHE44444E72222ICHIKOKIHGGGGGGV"  # A to L
    "HRLLHHHHHPLJHHEHHHHHEUHHUGGGEHHHLIDUHHUKIHFGGE11UV444444HHHHHHEHHHHHA4HHHLLLAHHA4AHH"  # M to X
    "HHHA444V1248GVEHJLPHE4C4444EEH1248VV2421HE26AIV22VGU11HE68GUHHEV124888EHHEHHEEHHF12C"  # Y to 9
)


def draw(
    city: City,
    values: ndarray | None = None,
    route: Sequence[int] | ndarray | None = None,
    *,
    agent: int | None = None,
    size: int | None = None,
    limits: tuple[float, float] | None = None,
) -> ndarray:
    """Return a picture of a city, (height, width, 3) uint8 pixels.

    Walls are dark, slippery cells blue with waves, one-way cells marked by an arrow, places coloured with the first
    letter of their name; values go from dark violet over green to yellow.

    Args:
        city: what to draw.
        values: (states,) a number for each cell; NaN leaves a cell plain.
        route: states one after another, each beside the one before (or the same), drawn as a line that ends in a dot.
        agent: the state where someone stands.
        size: pixels along each side of a cell; so many that the longer side has about 800 if None (at most 40).
            Below 8, one-way cells have no arrow.
        limits: values of the darkest and the brightest colour; the least and largest value if None.

    Raises:
        ValueError: values of another shape, a route that jumps or leaves the city, an agent outside it, a size that is
            not a whole number, 1 or more, or limits that are not two finite numbers, the lesser first.

    >>> from simulators.gridworld.layouts import four_rooms
    >>> draw(four_rooms(), size=10).shape
    (130, 130, 3)
    """
    height, width = city.index.shape
    size = min(max(800 // max(height, width), 1), 40) if size is None else size
    _check(city, agent, size, limits)
    floor = np.array([symbol == "~" for row in city.rows for symbol in row]).reshape(height, width)
    colours = np.where(floor[..., None], ICE, FLOOR)
    colours[city.index < 0] = WALL
    if values is not None:
        colours[tuple(city.cells.T)] = _coloured(np.asarray(values, dtype=float), limits, colours[tuple(city.cells.T)])
    if size == 1:
        _dots(colours, city, route, agent)
        return colours.astype(np.uint8)
    tiles = np.repeat(np.repeat(colours[:, :, None, None], size, 2), size, 3)  # (height, width, size, size, 3)
    _floor(tiles, city, size, plain=values is None)
    if values is None:
        _places(tiles, city, np.ones((size, size)))
    if route is not None:
        _line(tiles, city, _checked(city, route), size)
    _places(tiles, city, _stroke(size, (0.5, 0.5), (0.5, 0.5), 0.44), letters=True)
    if agent is not None:
        _person(tiles[tuple(city.cells[agent])], size)
    return tiles.swapaxes(1, 2).reshape(height * size, width * size, 3).round().astype(np.uint8)


def as_text(city: City, state: int) -> str:
    """Return the map with an ``@`` where the agent stands, and a line that says it."""
    row, col = city.cells[state]
    rows = list(city.rows)
    rows[row] = f"{rows[row][:col]}@{rows[row][col + 1 :]}"
    here = [name for name, states in city.places.items() if state in states]
    return "\n".join([*rows, f"@ row {row}, column {col}{''.join(f', {name}' for name in here)}", ""])


class Window:
    """A window that shows one picture after another, by matplotlib; without a screen it shows nothing.

    Args:
        title: of the window.
        fps: pictures a second, at most.
    """

    def __init__(self, title: str, fps: float) -> None:
        import matplotlib.pyplot as plt

        self._plt, self._pause, self._image = plt, 1 / fps, None
        self._figure = plt.figure(title, layout="tight")

    def show(self, picture: ndarray) -> None:
        """Show (height, width, 3) uint8 pixels."""
        if self._image is None:
            axes = self._figure.add_subplot()
            axes.set_axis_off()
            self._image = axes.imshow(picture)
        self._image.set_data(picture)
        if self._figure.canvas.required_interactive_framework:
            self._plt.pause(self._pause)

    def close(self) -> None:
        """Close the window."""
        self._plt.close(self._figure)


def _coloured(values: ndarray, limits: tuple[float, float] | None, plain: ndarray) -> ndarray:
    """Return (states, 3) colours of values."""
    if values.shape != plain.shape[:1]:
        raise ValueError(f"draw: values must be ({len(plain)},), one for each free cell; got {values.shape}")
    known = np.isfinite(values)
    if not known.any():
        return plain
    low, high = (values[known].min(), values[known].max()) if limits is None else limits
    share = np.clip((np.where(known, values, low) - low) / (high - low if high > low else 1), 0, 1)
    steps = np.linspace(0, 1, len(_VIRIDIS))
    found = np.stack([np.interp(share, steps, channel) for channel in _VIRIDIS.T], axis=-1)
    return np.where(known[:, None], found, plain)


def _check(city: City, agent: int | None, size: int, limits: tuple[float, float] | None) -> None:
    """Refuse what cannot be drawn."""
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"draw: size must be at least 1 pixel, a whole number; got {size!r}")
    if agent is not None and not (isinstance(agent, int | np.integer) and 0 <= agent < len(city)):
        raise ValueError(f"draw: the agent must be a state in 0..{len(city) - 1}; got {agent!r}")
    if limits is not None and not (np.shape(limits) == (2,) and np.isfinite(limits).all() and limits[0] <= limits[1]):
        raise ValueError(f"draw: limits must be two finite numbers, the lesser first; got {limits!r}")


def _checked(city: City, route: Sequence[int] | ndarray) -> ndarray:
    """Return a route as an array of states."""
    route = np.asarray(route)
    if route.ndim != 1 or not len(route) or route.dtype.kind not in "iu":
        raise ValueError(f"draw: the route must be states, whole numbers in a row; got {route!r}")
    if route.min() < 0 or route.max() >= len(city):
        raise ValueError(f"draw: the route leaves the city, whose states are 0..{len(city) - 1}")
    far = np.abs(np.diff(city.cells[route], axis=0)).sum(1) > 1
    if far.any():
        step = int(far.argmax())
        raise ValueError(f"draw: the route jumps from state {route[step]} to {route[step + 1]}, which is not beside it")
    return route


def _dots(colours: ndarray, city: City, route: Sequence[int] | ndarray | None, agent: int | None) -> None:
    """Draw places, route and agent as single pixels."""
    for number, states in enumerate(city.places.values()):
        colours[tuple(city.cells[states].T)] = PLACES[number % len(PLACES)]
    if route is not None:
        colours[tuple(city.cells[_checked(city, route)].T)] = ROUTE
    if agent is not None:
        colours[tuple(city.cells[agent])] = AGENT


def _floor(tiles: ndarray, city: City, size: int, *, plain: bool) -> None:
    """Draw the lines between cells, the waves of slippery cells and the arrows of one-way cells."""
    if size < 8:
        return
    symbols = np.array([list(row) for row in city.rows])
    edge = np.zeros((size, size))
    edge[0] = edge[:, 0] = 1.0 if plain else 0.25
    free = city.index >= 0
    _blend(tiles, free, edge, LINE if plain else WALL)
    x, y = _grid(size)
    waves = np.abs((y * 3 + 0.25 * np.sin(2 * np.pi * x)) % 1 - 0.5) < 0.11
    _blend(tiles, symbols == "~", 0.55 * waves, np.array((90, 150, 200)) if plain else WHITE)
    ink = np.array((110, 122, 140)) if plain else WHITE
    for arrow, (down, right) in zip("^v<>", MOVES[:4], strict=True):
        # A point at the arrow's tip, and two strokes back from it to either side.
        tip = np.array((0.5 + 0.2 * right, 0.5 + 0.2 * down))
        back, side = -np.array((right, down)), np.array((down, right))
        strokes = [_stroke(size, tip, tip + 0.35 * back + sign * 0.3 * side, 0.055) for sign in (-1, 1)]
        _blend(tiles, symbols == arrow, np.maximum(*strokes), ink)


def _places(tiles: ndarray, city: City, shape: ndarray, *, letters: bool = False) -> None:
    """Draw each place's cells in its colour, as much of them as shape (size, size) says, and its letter on top."""
    for number, (name, states) in enumerate(city.places.items()):
        where = np.zeros(city.index.shape, dtype=bool)
        where[tuple(city.cells[states].T)] = True
        _blend(tiles, where, shape, PLACES[number % len(PLACES)])
        if letters:
            _blend(tiles, where, _letter(name[:1].upper(), len(shape)), WHITE)


def _letter(letter: str, size: int) -> ndarray:
    """Return (size, size) of 1 where a letter has ink; empty where it has none, or no room."""
    alpha = np.zeros((size, size))
    scale = int(0.75 * size) // 7
    if letter and letter in _ALPHABET and scale:
        start = 7 * _ALPHABET.index(letter)
        rows = [int(digit, 32) for digit in _DOTS[start : start + 7]]
        bits = np.array([[row >> shift & 1 for shift in (4, 3, 2, 1, 0)] for row in rows])
        dots = np.kron(bits, np.ones((scale, scale)))
        top, left = (size - dots.shape[0] + 1) // 2, (size - dots.shape[1] + 1) // 2
        alpha[top : top + dots.shape[0], left : left + dots.shape[1]] = dots
    return alpha


def _line(tiles: ndarray, city: City, route: ndarray, size: int) -> None:
    """Draw a route: from each cell's centre to the edge towards its neighbours on the route, white under red."""
    cells, place = np.unique(route, return_inverse=True)
    steps = np.diff(city.cells[route], axis=0)
    for width, colour in ((0.17, WHITE), (0.11, ROUTE)):
        alpha = np.zeros((len(cells), size, size))
        for step in MOVES[:4]:
            half = _stroke(size, (0.5, 0.5), (0.5 + step[1], 0.5 + step[0]), width)
            leaving, coming = (steps == step).all(1), (steps == -step).all(1)
            touched = np.concatenate([place[:-1][leaving], place[1:][coming]])
            alpha[touched] = np.maximum(alpha[touched], half)
        for end, extra in ((0, 0.06), (-1, 0.16)):
            dot = _stroke(size, (0.5, 0.5), (0.5, 0.5), width + extra)
            alpha[place[end]] = np.maximum(alpha[place[end]], dot)
        where = tuple(city.cells[cells].T)
        tiles[where] += alpha[..., None] * (colour - tiles[where])


def _person(tile: ndarray, size: int) -> None:
    for radius, colour in ((0.4, WHITE), (0.32, AGENT)):
        alpha = _stroke(size, (0.5, 0.5), (0.5, 0.5), radius)[..., None]
        tile += alpha * (colour - tile)


def _blend(tiles: ndarray, where: ndarray, alpha: ndarray, colour: ndarray) -> None:
    """Lay a colour over the cells of a (height, width) mask, as much of it as alpha (size, size) says."""
    tiles[where] += alpha[..., None] * (colour - tiles[where])


def _stroke(size: int, start: Sequence[float], stop: Sequence[float], width: float) -> ndarray:
    """Return (size, size) in [0, 1]: a smooth line with round ends, ``width`` the half of its width; in cells."""
    x, y = _grid(size)
    start, along = np.asarray(start, dtype=float), np.subtract(stop, start)
    length = max(along @ along, 1e-12)
    share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length, 0, 1)
    away = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
    return np.clip((width - away) * size + 0.5, 0, 1)


def _grid(size: int) -> tuple[ndarray, ndarray]:
    """Return x and y, (size, size), of the centres of a cell's pixels, in units of the cell."""
    centres = (np.arange(size) + 0.5) / size
    return centres[None, :] * np.ones((size, 1)), centres[:, None] * np.ones((1, size))

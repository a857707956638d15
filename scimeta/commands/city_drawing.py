"""The picture of a journey through a city: the map, the values of its cells, and the route or the policy's steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from scimeta.commands.city_journey import Journey
from scimeta.commands.city_report import count, expected
from scimeta.commands.learned_city import LearnedCity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROUTE, _INK = "#e4002b", "#24262e"
_ROOM = 30  # points along a cell's side that a number in its corner takes


def draw_journey(known: LearnedCity, journey: Journey) -> Axes:
    """Draw the map, the values of all cells, and the route, or the policy where there is none; preferences are written
    beside their places."""
    import matplotlib.pyplot as plt

    from simulators.gridworld import draw

    height, width = known.city.index.shape
    inch = min(9 / width, 7 / height, 0.8)  # of a cell
    ax = plt.figure(figsize=(max(inch * width, 4) + 1.4, max(inch * height, 2) + 0.9), layout="constrained").subplots()
    values, states = journey.judged.values, journey.states
    cells = known.city.cells if states is None else known.city.cells[list(states)]
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(draw(known.city.with_places({}), values), extent=edges, interpolation="none")
    low, high = values.min(), values.max()
    shades = plt.cm.ScalarMappable(cmap="viridis")
    shades.set_clim(low, high if high > low else low + 1)
    bar = ax.figure.colorbar(shades, ax=ax, shrink=0.8, pad=0.02)
    bar.set_label("expected discounted reward", color=_INK)
    bar.outline.set_visible(False)
    points = min(max(72 * inch, 9), 40)
    _draw_places(ax, known, points)
    if states is None:
        _draw_policy(ax, known, journey, points)
    else:
        _draw_route(ax, cells, points)
    _name_places(ax, known, journey, {tuple(cell) for cell in cells.tolist()}, inch)
    ax.set_axis_off()
    ax.set_title(_title(known, journey), color=_INK, loc="left", fontsize=13)
    return ax


def _title(known: LearnedCity, journey: Journey) -> str:
    if journey.states is not None:
        start, end = (known.name_of(journey.states[i]) for i in (0, -1))
        return f"{start} \N{RIGHTWARDS ARROW} {end}, {count(len(journey.states) - 1, 'step')}"
    if journey.arrival is None:
        return f"the policy from {known.name_of(journey.start)}"
    return f"{known.name_of(journey.start)} \N{RIGHTWARDS ARROW} {journey.aim.name}, {expected(journey)}"


def _draw_places(ax: Axes, known: LearnedCity, points: float) -> None:
    """Draw a disc with the place's first letter on each of its cells."""
    from simulators.gridworld.drawing import PLACES

    for number, (name, states) in enumerate(known.city.places.items()):
        rows, cols = known.city.cells[states].T
        ax.scatter(cols, rows, (0.8 * points) ** 2, color=PLACES[number % len(PLACES)] / 255, linewidths=0, zorder=2)
        for row, col in zip(rows, cols, strict=True):
            style = {"fontsize": 0.45 * points, "fontweight": "bold", "ha": "center", "va": "center_baseline"}
            ax.text(col, row, name[0].upper(), color="white", zorder=2, **style)


def _draw_policy(ax: Axes, known: LearnedCity, journey: Journey, points: float) -> None:
    """Draw an arrow in each cell, a dot where the policy stays, a ring where it starts, stars where it ends, and where
    there is room the expected steps to the end."""
    from simulators.gridworld import MOVES

    moves, (y, x) = MOVES[journey.judged.actions], known.city.cells.T
    ends = np.isin(np.arange(len(moves)), [] if journey.aim.ends is None else journey.aim.ends)
    going, stays = moves.any(axis=1) & ~ends, ~moves.any(axis=1) & ~ends
    along, across = (np.multiply.outer((-0.3, 0.2), moves[going, axis]) for axis in (1, 0))
    for colour, share in (("white", 0.13), (_ROUTE, 0.07)):
        ax.plot(x[going] + along, y[going] + across, color=colour, lw=share * points, zorder=3)
    for marker, move in zip("^v<>", MOVES, strict=False):
        here = going & (moves == move).all(axis=1)
        style = {"ms": 0.3 * points, "mfc": _ROUTE, "mec": "white", "mew": 0.03 * points, "ls": "", "zorder": 3}
        ax.plot(x[here] + 0.25 * move[1], y[here] + 0.25 * move[0], marker, **style)
    style = {"markeredgecolor": _ROUTE, "markerfacecolor": "white", "ls": "", "zorder": 4}
    ax.plot(x[stays], y[stays], "o", ms=0.25 * points, mew=0.05 * points, **style)
    ax.plot(x[ends], y[ends], "*", ms=0.85 * points, mew=0.05 * points, **style)
    ax.plot(x[journey.start], y[journey.start], "o", ms=0.9 * points, mew=0.08 * points, **style, fillstyle="none")
    if journey.arrival is not None and points >= _ROOM:
        text = {"fontsize": 0.2 * points, "color": _INK, "ha": "right", "va": "bottom", "zorder": 4}
        text["bbox"] = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
        for row, col, steps in zip(y[~ends], x[~ends], journey.arrival.steps[~ends], strict=True):
            ax.text(col + 0.46, row + 0.46, f"{steps:.3g}", **text)


def _draw_route(ax: Axes, cells: ndarray, points: float) -> None:
    """Draw a line from centre to centre, white-edged, a ring where it starts and a star where it ends."""
    y, x = cells.T
    for colour, share in (("white", 0.26), (_ROUTE, 0.14)):
        ax.plot(x, y, color=colour, lw=share * points, solid_capstyle="round", solid_joinstyle="round", zorder=3)
    style = {"markeredgecolor": _ROUTE, "markerfacecolor": "white", "ls": "", "zorder": 4}
    ax.plot(x[0], y[0], "o", ms=0.45 * points, mew=0.1 * points, **style)
    ax.plot(x[-1], y[-1], "*", ms=0.85 * points, mew=0.05 * points, **style)


def _name_places(ax: Axes, known: LearnedCity, journey: Journey, drawn: set[tuple[int, int]], inch: float) -> None:
    """Write each place's name beside its cells, off what is drawn where there is room, and what its reward is."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    height, width = known.city.index.shape
    for (name, states), weight in zip(known.city.places.items(), journey.aim.weights, strict=True):
        label = name + f" {weight:+.2g}" * (journey.aim.ends is None and bool(weight))
        if journey.states is None and len(label) == 1:
            continue  # it is on the disc, and its label would cover a step
        cells = known.city.cells[states]
        (top, left), (bottom, right), half = cells.min(0), cells.max(0), 0.048 * (len(label) + 1) / inch
        middle = float(np.clip((left + right) / 2, half - 0.5, max(width - 0.5 - half, half - 0.5)))
        row = (top + bottom) / 2
        beside = [(top - 0.75, middle), (bottom + 0.75, middle), (row, right + 0.6 + half), (row, left - 0.6 - half)]
        covered = []
        for y, x in beside:
            span = range(round(x - half), round(x + half) + 1)
            outside = round(y) not in range(height) or x - half < -0.6 or x + half > width - 0.4
            covered.append(1000 * outside + sum((round(y), column) in drawn for column in span))
        y, x = beside[int(np.argmin(covered))]
        ax.text(x, y, label, bbox=box, color=_INK, fontsize=9, ha="center", va="center", zorder=5)

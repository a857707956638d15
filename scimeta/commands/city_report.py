"""What ``scimeta city`` says and draws: how well a city is known, and a route in words, as a table and on the map."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy import ndarray

from scimeta.commands.city_aims import Aim, goal
from scimeta.commands.city_journey import Journey, Judged, judge
from scimeta.commands.learned_city import LearnedCity
from scimeta.domains import gridworld

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWN = 40  # goals and preferences to be judged by that nobody named
_WIDEST, _HIGHEST = 100, 40  # of a map that is printed
_ROUTE, _INK = "#e4002b", "#24262e"


def portrait(known: LearnedCity, seconds: float) -> str:
    """Return the map and what is known of it."""
    city = known.city
    height, width = city.index.shape
    text = "".join(city.rows)
    one_way, slippery = sum(text.count(arrow) for arrow in "^v<>"), text.count("~")
    facts = f", {one_way} one-way" * bool(one_way)
    facts += f", {slippery} slippery (a foot slips with probability {known.map.slip:g})" * bool(slippery)
    of = "every cell" if known.every_cell else _count(len(city.places), "place")
    return (
        f"{city.name}, {height} x {width}: {_count(len(city), 'free cell')}, {_count(len(city.places), 'place')}"
        + f"{facts}\n\n"
        + f"{city}\n\n" * (width <= _WIDEST and height <= _HIGHEST)
        + f"{_count(len(known.names), 'policy')} with successor features of {of}, "
        f"{known.successors.nbytes / 1e6:.3g} MB, gamma {known.gamma:g}, learned in {seconds:.2f} s"
    )


def examination(known: LearnedCity) -> str:
    """Return a table of mean regrets over all cells: to each place, to cells and for preferences never learned."""
    city, rng = known.city, np.random.default_rng(0)
    number = min(_DRAWN, max(3, 40_000 // len(city)), len(city))
    rows = []
    for name, states in city.places.items():
        reached = np.any([np.isfinite(gridworld.distances(known.transitions, int(s))) for s in states], axis=0)
        first = "{},{}".format(*city.cells[states[0]])
        rows.append((name, first, len(states), f"{reached.mean():.0%}", [goal(known, name)]))
    cells = city.cells[rng.choice(len(city), number, replace=False)]
    rows.append((f"{_count(number, 'cell')} drawn", "", "", "", [goal(known, "{},{}".format(*cell)) for cell in cells]))
    if len(city.places) > 1:
        draws = rng.standard_normal((_DRAWN, len(city.places)))[:number]
        tastes = [Aim("", weights, np.zeros(len(city)), None) for weights in draws]
        rows.append((f"{len(draws)} drawn likes and dislikes", "", "", "", tastes))
    table = pd.DataFrame(rows, columns=["goal", "at", "cells", "reached from", "mean regret"])
    table["mean regret"] = [_number(np.mean([judge(known, aim).regret for aim in aims])) for *_, aims in rows]
    return table.to_string(index=False)


def words(known: LearnedCity, journey: Journey) -> str:
    """Return the route as one would say it: places, and the stretches between them."""
    from simulators.gridworld import ACTIONS, MOVES

    called = {tuple(move): action for move, action in zip(MOVES.tolist(), ACTIONS, strict=True)}
    moves = [called[tuple(move)] for move in np.diff(known.city.cells[list(journey.states)], axis=0).tolist()]
    names, last = [known.place_of(state) for state in journey.states], len(moves)
    parts, since = [known.name_of(journey.states[0])], 0
    for step in range(1, last + 1):
        entered = names[step] and names[step] != names[step - 1] and set(names[step:]) != {names[last]}
        if entered or step == last:
            stretches = (f"{len(list(same))} {move}" for move, same in itertools.groupby(moves[since:step]))
            parts += [", ".join(stretches), known.name_of(journey.states[step])]
            since = step
    if journey.aim.ends is not None:
        end = f"; shortest {journey.shortest:.0f}"
    else:
        end = ", and stays" if journey.stays else ", and goes round from there for ever"
    slips = "" if journey.chance > 1 - 1e-9 else f" (no foot slips with probability {journey.chance:.2f})"
    return f"{' -> '.join(parts)}, {_count(len(journey.states) - 1, 'step')}{end}{slips}"


def worth(judged: Judged, start: int) -> str:
    """Return what the policy is worth at the start, beside the best that there is."""
    return (
        f"expected discounted reward {judged.values[start]:.5g}, of the best policy {judged.best[start]:.5g}: "
        f"regret {_number(judged.regret[start])}, mean over all cells {_number(judged.regret.mean())}"
    )


def route_table(known: LearnedCity, journey: Journey) -> pd.DataFrame:
    """Return one row a step: step, row, col, place, reward for entering, value."""
    states = np.array(journey.states)
    table = pd.DataFrame(known.city.cells[states], columns=["row", "col"])
    table.insert(0, "step", range(len(states)))
    table["place"] = [known.place_of(state) for state in journey.states]
    table["reward"] = np.r_[0.0, journey.aim.rewards(known)[states[1:]]]
    table["value"] = journey.judged.values[states]
    return table


def draw_journey(known: LearnedCity, journey: Journey) -> Axes:
    """Draw the map, the values of all cells and the route; preferences are written beside their places."""
    import matplotlib.pyplot as plt

    from simulators.gridworld import draw

    height, width = known.city.index.shape
    inch = min(9 / width, 7 / height, 0.8)  # of a cell
    ax = plt.figure(figsize=(max(inch * width, 4) + 1.4, max(inch * height, 2) + 0.9), layout="constrained").subplots()
    values, cells = journey.judged.values, known.city.cells[list(journey.states)]
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(draw(known.city.with_places({}), values), extent=edges, interpolation="none")
    low, high = values.min(), values.max()
    shades = plt.Normalize(low, high if high > low else low + 1)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(shades, "viridis"), ax=ax, shrink=0.8, pad=0.02)
    bar.set_label("expected discounted reward", color=_INK)
    bar.outline.set_visible(False)
    points = min(max(72 * inch, 9), 40)
    _draw_places(ax, known, points)
    _draw_route(ax, cells, points)
    _name_places(ax, known, journey.aim, {tuple(cell) for cell in cells.tolist()}, inch)
    ax.set_axis_off()
    start, end = (known.name_of(journey.states[i]) for i in (0, -1))
    ax.set_title(
        f"{start} \N{RIGHTWARDS ARROW} {end}, {_count(len(journey.states) - 1, 'step')}",
        color=_INK,
        loc="left",
        fontsize=13,
    )
    return ax


def _draw_places(ax: Axes, known: LearnedCity, points: float) -> None:
    """Draw a disc with the place's first letter on each of its cells."""
    from simulators.gridworld.drawing import PLACES

    for number, (name, states) in enumerate(known.city.places.items()):
        rows, cols = known.city.cells[states].T
        ax.scatter(cols, rows, (0.8 * points) ** 2, color=PLACES[number % len(PLACES)] / 255, linewidths=0, zorder=2)
        for row, col in zip(rows, cols, strict=True):
            style = {"fontsize": 0.45 * points, "fontweight": "bold", "ha": "center", "va": "center_baseline"}
            ax.text(col, row, name[0].upper(), color="white", zorder=2, **style)


def _draw_route(ax: Axes, cells: ndarray, points: float) -> None:
    """Draw a line from centre to centre, white-edged, a ring where it starts and a star where it ends."""
    y, x = cells.T
    for colour, share in (("white", 0.26), (_ROUTE, 0.14)):
        ax.plot(x, y, color=colour, lw=share * points, solid_capstyle="round", solid_joinstyle="round", zorder=3)
    style = {"markeredgecolor": _ROUTE, "markerfacecolor": "white", "ls": "", "zorder": 4}
    ax.plot(x[0], y[0], "o", ms=0.45 * points, mew=0.1 * points, **style)
    ax.plot(x[-1], y[-1], "*", ms=0.85 * points, mew=0.05 * points, **style)


def _name_places(ax: Axes, known: LearnedCity, aim: Aim, route: set[tuple[int, int]], inch: float) -> None:
    """Write each place's name beside its cells, off the route where there is room, and what its reward is."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    height, width = known.city.index.shape
    for (name, states), weight in zip(known.city.places.items(), aim.weights, strict=True):
        label = name + f" {weight:+.2g}" * (aim.ends is None and bool(weight))
        cells = known.city.cells[states]
        (top, left), (bottom, right), half = cells.min(0), cells.max(0), 0.048 * (len(label) + 1) / inch
        middle = float(np.clip((left + right) / 2, half - 0.5, max(width - 0.5 - half, half - 0.5)))
        row = (top + bottom) / 2
        beside = [(top - 0.75, middle), (bottom + 0.75, middle), (row, right + 0.6 + half), (row, left - 0.6 - half)]
        covered = []
        for y, x in beside:
            span = range(round(x - half), round(x + half) + 1)
            outside = round(y) not in range(height) or x - half < -0.6 or x + half > width - 0.4
            covered.append(1000 * outside + sum((round(y), column) in route for column in span))
        y, x = beside[int(np.argmin(covered))]
        ax.text(x, y, label, bbox=box, color=_INK, fontsize=9, ha="center", va="center", zorder=5)


def _count(number: int, noun: str) -> str:
    """Return a number of things: 1 policy, 2 policies."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"


def _number(value: float) -> str:
    """Return a share to five places."""
    return f"{round(value, 5) + 0.0:.5g}"  # rounding may leave a minus

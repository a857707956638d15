"""What is wanted in a learned city: a goal, preferences as they are typed, or preferences learned from rewards met."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.calibration.data.delimited import NUMBER, Table, read_delimited
from scimeta.commands.learned_city import LearnedCity
from scimeta.domains.gridworld import Weights, learn_weights


class Aim(NamedTuple):
    """What is wanted: rewards for entering places and single cells.

    Attributes:
        name: of the goal; empty for preferences.
        weights: (places,) reward of each place.
        extra: (states,) rewards of single cells besides.
        ends: (cells,) states at any of which the journey ends; None where preferences lead.
    """

    name: str
    weights: ndarray
    extra: ndarray
    ends: ndarray | None

    def rewards(self, known: LearnedCity) -> ndarray:
        """Return the (states,) reward for entering each cell."""
        return known.features @ self.weights + self.extra


def goal(known: LearnedCity, text: str) -> Aim:
    """Return the aim to reach a place, or a cell as ROW,COL; ValueError where there is none."""
    states, aim = states_of(known, text), preferences(known, [(text, 1.0)])
    return aim._replace(name=text, ends=states)


def preferences(known: LearnedCity, rewards: Sequence[tuple[str, float]]) -> Aim:
    """Return the aim of rewards for places, or cells as ROW,COL; those for the same one add up."""
    weights, extra = np.zeros(len(known.city.places)), np.zeros(len(known.city))
    for where, reward in rewards:
        if where in known.city.places:
            weights[list(known.city.places).index(where)] += reward
        else:
            extra[states_of(known, where)] += reward
    return Aim("", weights, extra, None)


def learned_preferences(known: LearnedCity, path: str, sigma: float | None) -> tuple[Aim, Weights]:
    """Return the preferences that a table of rewards suggests, and their posterior; 0 where none was met.

    Args:
        known: the city.
        path: of a table with the columns place (or row and col) and reward; a cell of a place counts for the place.
        sigma: standard deviation of the rewards' noise; None where it is not known.

    Raises:
        ValueError: a column or row that is not there, a place or reward that is none, rewards of actions; with file,
            row and column.
        FileNotFoundError: there is no such file.
    """
    table = read_delimited(path)
    column = _column(table, "reward")
    if "action" in _lower(table):
        raise table.error(
            "there is a column 'action', but a reward is for the cell that was entered, whatever the action; give that "
            "cell in place (or row and col), and leave the action out"
        )
    rewards = np.array([_reward(table, row, column) for row in range(len(table.rows))])
    where = [_where(known, table, row) for row in range(len(table.rows))]
    if not where:
        raise table.error("there are no rows below the header; add the rewards that were met")
    names = list(dict.fromkeys(where))
    met = np.array([[name == other for other in names] for name in where], dtype=float)
    found = learn_weights(met, rewards, sigma=sigma, names=names)
    return preferences(known, list(zip(names, found.mean.tolist(), strict=True))), found


def states_of(known: LearnedCity, text: str) -> ndarray:
    """Return the states of a place, or of a cell as ROW,COL; ValueError where there is none."""
    cell = None if text in known.city.places else cell_of(text)
    return known.city.place(text) if cell is None else np.array([known.city.state(*cell)])


def cell_of(text: str) -> tuple[int, int] | None:
    """Return row and column of ROW,COL; None where the text is something else.

    >>> cell_of("3,14")
    (3, 14)
    """
    found = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*\)?", text, re.ASCII)
    return found and (int(found[1]), int(found[2]))


def finite(text: str) -> float | None:
    """Return a finite number; None where the text is something else.

    >>> finite("-0.5"), finite("nan")
    (-0.5, None)
    """
    return float(text) if NUMBER.fullmatch(text) and np.isfinite(float(text)) else None


def _reward(table: Table, row: int, column: int) -> float:
    text = table.columns[column][row].strip()
    value = finite(text.replace(",", ".") if table.comma else text)
    if value is None:
        raise table.error(f"{text!r} is not a finite number; correct it or delete the row", row, column)
    return value


def _where(known: LearnedCity, table: Table, row: int) -> str:
    """Return the place of a row of the table, or its cell as ROW,COL."""
    column = _column(table, "place" if "place" in _lower(table) else "row")
    text = table.columns[column][row].strip()
    if "place" not in _lower(table) or (not text and "row" in _lower(table)):
        text = ",".join(table.columns[_column(table, name)][row].strip() for name in ("row", "col"))
    try:
        state = states_of(known, text)[0]
    except ValueError as error:
        raise table.error(str(error), row, column) from error
    return text if text in known.city.places else known.name_of(state)


def _column(table: Table, name: str) -> int:
    """Return the number of a column."""
    if name not in _lower(table):
        raise table.error(
            f"there is no column {name!r}, only {', '.join(map(repr, table.header))}; expected place (or row and col) "
            "and reward"
        )
    return _lower(table).index(name)


def _lower(table: Table) -> list[str]:
    return [name.lower() for name in table.header]

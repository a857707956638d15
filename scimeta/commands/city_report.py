"""What ``scimeta city`` says: how well a city is known, and a route or policy in words and as a table."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from scimeta.commands.city_aims import Aim, goal
from scimeta.commands.city_journey import Journey, Judged, judge
from scimeta.commands.learned_city import LearnedCity
from scimeta.domains import gridworld

_DRAWN = 40  # goals and preferences to be judged by that nobody named
_WIDEST, _HIGHEST = 100, 40  # of a map that is printed
_ARROWS = "^v<>."  # the policy as text, in the order of the actions


def portrait(known: LearnedCity, seconds: float) -> str:
    """Return the map and what is known of it."""
    city = known.city
    height, width = city.index.shape
    text = "".join(city.rows)
    one_way, slippery = sum(text.count(arrow) for arrow in "^v<>"), text.count("~")
    facts = f", {one_way} one-way" * bool(one_way)
    facts += f", {slippery} slippery (a foot slips with probability {known.map.slip:g})" * bool(slippery)
    of = "every cell" if known.every_cell else count(len(city.places), "place")
    return (
        f"{city.name}, {height} x {width}: {count(len(city), 'free cell')}, {count(len(city.places), 'place')}"
        + f"{facts}\n\n"
        + f"{city}\n\n" * (width <= _WIDEST and height <= _HIGHEST)
        + f"{count(len(known.names), 'policy')} with successor features of {of}, "
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
    rows.append((f"{count(number, 'cell')} drawn", "", "", "", [goal(known, "{},{}".format(*cell)) for cell in cells]))
    if len(city.places) > 1:
        draws = rng.standard_normal((_DRAWN, len(city.places)))[:number]
        tastes = [Aim("", weights, np.zeros(len(city)), None) for weights in draws]
        rows.append((f"{len(draws)} drawn likes and dislikes", "", "", "", tastes))
    table = pd.DataFrame(rows, columns=["goal", "at", "cells", "reached from", "mean regret"])
    table["mean regret"] = [_number(float(np.mean([judge(known, aim).regret for aim in aims]))) for *_, aims in rows]
    return table.to_string(index=False)


def words(known: LearnedCity, journey: Journey) -> str:
    """Return the route as one would say it: places, and the stretches between them; without a route the policy."""
    from simulators.gridworld import ACTIONS, MOVES

    if journey.states is None:
        return _policy_words(known, journey)
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
    slips = ""
    if journey.chance < 1 - 1e-9:
        slips = f" (no foot slips with probability {journey.chance:{'.2f' if journey.chance > 0.1 else '.2g'}})"
        slips += "" if journey.arrival is None else f"\nwhatever slips: {expected(journey)}"
    return f"{' -> '.join(parts)}, {count(len(journey.states) - 1, 'step')}{end}{slips}"


def _policy_words(known: LearnedCity, journey: Journey) -> str:
    """Return what a policy does that chance leads on, and the policy itself where the map is small enough to print."""
    where = known.name_of(journey.start)
    if journey.aim.ends is not None:
        said = f"{where} -> {journey.aim.name}: {expected(journey)}; shortest {journey.shortest:.0f}, with luck"
    else:
        said = f"{where}, and on and on"
    said += "\nfeet slip so much that the likeliest steps go round in circles; the policy is what to do in each cell"
    height, width = known.city.index.shape
    if width > _WIDEST or height > _HIGHEST:
        return said
    drawn = np.array([list(row) for row in known.city.rows])
    drawn[tuple(known.city.cells.T)] = np.array(list(_ARROWS))[journey.judged.actions]
    if journey.aim.ends is not None:
        drawn[tuple(known.city.cells[journey.aim.ends].T)] = "*"
    return said + ":\n\n" + "\n".join("".join(row) for row in drawn) + "\n"


def expected(journey: Journey) -> str:
    """Return how many steps the policy takes to the goal in the mean, and how likely it arrives at all."""
    assert journey.arrival is not None  # only where a goal can be missed by chance
    chance, steps = (float(part[journey.start]) for part in journey.arrival)
    if chance == 1.0:
        return f"{steps:.3g} expected steps"
    return f"it arrives with probability {chance:.3g}, then after {steps:.3g} expected steps"


def worth(judged: Judged, start: int) -> str:
    """Return what the policy is worth at the start, beside the best that there is."""
    return (
        f"expected discounted reward {judged.values[start]:.5g}, of the best policy {judged.best[start]:.5g}: "
        f"regret {_number(judged.regret[start])}, mean over all cells {_number(judged.regret.mean())}"
    )


def route_table(known: LearnedCity, journey: Journey) -> pd.DataFrame:
    """Return one row a step: step, row, col, place, reward for entering, value."""
    assert journey.states is not None  # there is a route
    states = np.array(journey.states)
    table = pd.DataFrame(known.city.cells[states], columns=["row", "col"])
    table.insert(0, "step", range(len(states)))
    table["place"] = [known.place_of(state) for state in journey.states]
    table["reward"] = np.r_[0.0, journey.aim.rewards(known)[states[1:]]]
    table["value"] = journey.judged.values[states]
    return table


def policy_table(known: LearnedCity, journey: Journey) -> pd.DataFrame:
    """Return one row a cell: row, col, place, action, reward for entering, value; to a goal also how likely it arrives
    from there, and after how many expected steps."""
    from simulators.gridworld import ACTIONS

    table = pd.DataFrame(known.city.cells, columns=["row", "col"])
    table["place"] = [known.place_of(state) for state in range(len(table))]
    table["action"] = np.array(ACTIONS)[journey.judged.actions]
    table["reward"] = journey.aim.rewards(known)
    table["value"] = journey.judged.values
    if journey.arrival is not None:
        table["arrives"], table["expected_steps"] = journey.arrival
    return table


def count(number: int, noun: str) -> str:
    """Return a number of things: 1 policy, 2 policies."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"


def _number(value: float) -> str:
    """Return a share to five places."""
    return f"{round(value, 5) + 0.0:.5g}"  # rounding may leave a minus

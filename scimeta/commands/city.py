"""``scimeta city``: learn a map once, then ask for the way to any goal; a thin layer as ``scimeta.cli``."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scimeta.commands.outputs import check_outputs, picture, say, write, write_table

if TYPE_CHECKING:
    from scimeta.commands.city_aims import Aim
    from scimeta.commands.learned_city import CityMap, LearnedCity
    from scimeta.domains.gridworld import Weights

_CITY, _PICTURE = "city.safetensors", "city_route.png"
_EXAMPLES = """from a map to a route:
  scimeta city train                       learns a small town; writes city.safetensors
  scimeta city go                          from its first place to its last; draws city_route.png
"""
_TRAIN_EXAMPLES = """examples:
  scimeta city train streets.txt --place L=library --place P=park -o streets.safetensors
  scimeta city train four_rooms --place kitchen=2,3 --place bath=10,10

On a map # is a wall, . or a space a free cell, ~ a slippery one, ^ v < > a one-way one; letters and digits are places.
Rows and columns are counted from 0 at the top left.
"""
_GO_EXAMPLES = """examples:
  scimeta city go city.safetensors park --start station --plot route.png --csv route.csv
  scimeta city go city.safetensors 4,16
  scimeta city go city.safetensors --reward park=1 market=-0.5
  scimeta city go city.safetensors --rewards seen.csv       columns place (or row, col) and reward: what was met there
"""
TYPE_INSTEAD = {  # what the functions advise -> what it is at the command line
    r"^(warning: )?(read_city|grid_city|learn_weights): ": r"\1",
    r"(^|: )state: (?=\(|the cell)": r"\1",
    r"none; add some by with_places": "none; name a cell as ROW,COL, or train with --place NAME=ROW,COL",
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``city train`` and ``city go`` to the commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("city", help="learn a map once, go anywhere", epilog=_EXAMPLES, formatter_class=raw)
    steps = parser.add_subparsers(required=True, metavar="{train,go}")
    train = steps.add_parser("train", help="learn a map", epilog=_TRAIN_EXAMPLES, formatter_class=raw)
    train.add_argument("map", nargs="?", default="town", help="a text file, or the name of a ready map (default town)")
    train.add_argument("-o", "--output", default=_CITY, metavar="CITY", help=f"default {_CITY}")
    train.add_argument("--gamma", type=float, default=0.95, help="what a step's delay leaves of a reward, below 1")
    train.add_argument(
        "--place", action="extend", nargs="+", default=[], metavar="L=NAME",
        help="what the letter L on the map is called; or NAME=ROW,COL for a place that is not on the map",
    )  # fmt: skip
    train.add_argument("--slip", type=float, default=0.2, help="how likely a step from ~ goes sideways (default 0.2)")
    train.set_defaults(run=_train)

    go = steps.add_parser("go", help="find the way to a goal", epilog=_GO_EXAMPLES, formatter_class=raw)
    go.add_argument("city", nargs="?", help=f"from scimeta city train (default {_CITY})")
    go.add_argument("goal", nargs="?", help="a place, or a cell as ROW,COL (default: the last place)")
    go.add_argument("--start", metavar="PLACE|ROW,COL", help="default: the first place that is not the goal")
    go.add_argument(
        "--reward", action="extend", nargs="+", metavar="PLACE=NUMBER", help="preferences, in place of GOAL"
    )
    go.add_argument("--rewards", metavar="CSV", help="rewards that were met, from which preferences are learned")
    go.add_argument("--sigma", type=float, help="standard deviation of those rewards' noise (default: not known)")
    go.add_argument("--improve", type=int, default=0, metavar="N", help="plan so many improvements more (default 0)")
    go.add_argument("--csv", dest="table", metavar="OUT.csv", help="the route, one row a step; -: standard output")
    go.add_argument("--plot", metavar="PNG", help=f"draw map, values and route (alone: {_PICTURE})")
    go.set_defaults(run=_go)


def _train(options: argparse.Namespace) -> None:
    from scimeta.commands.city_report import examination, portrait
    from scimeta.commands.learned_city import learn_city

    known = _map(options)
    check_outputs([known.source], learned=options.output)
    started = time.perf_counter()
    learned = learn_city(known, options.gamma)
    seconds = time.perf_counter() - started
    report = f"{portrait(learned, seconds)}\n\n{examination(learned)}"
    learned.save(options.output)
    last = shlex.quote(list(learned.city.places or ["ROW,COL"])[-1])
    print(f"{report}\n\nwritten to {options.output}; next: scimeta city go {options.output} {last} --plot {_PICTURE}")


def _go(options: argparse.Namespace) -> None:
    from scimeta.commands.city_journey import travel
    from scimeta.commands.city_report import draw_journey, route_table, words, worth

    _settle(options)
    report = check_outputs([options.city, options.rewards], [options.table], options.plot)
    known = _load(options.city)
    check_outputs([known.map.source], [options.table], options.plot)
    aim, found = _aim(known, options)
    start = _start(known, aim, options.start)
    journey = travel(known, aim, start, options.improve)
    if journey.states is None:
        raise ValueError(
            f"the policy's likeliest steps do not lead to {aim.name}, {journey.shortest:.0f} steps away or more; "
            f"let it plan as well, with --improve {options.improve + 10}, or train with a larger --gamma"
        )
    table = route_table(known, journey)
    image = picture(partial(draw_journey, known, journey), options.plot)
    said = [*[f"{found}\n"] * (found is not None), words(known, journey), worth(journey.judged, start)]
    say("\n".join(said), report)
    write_table(options.table, lambda: table, "route", report)
    write(options.plot, image, "figure", report)


def _map(options: argparse.Namespace) -> CityMap:
    """Return the map that was named, with its places."""
    from scimeta.commands.learned_city import CityMap
    from simulators.gridworld import LAYOUTS

    symbols, spots = _named(options.place)
    path = Path(options.map)
    if options.map in LAYOUTS and not path.is_file():
        ready = LAYOUTS[options.map]()
        firsts = {name: ready.cells[states[0]] for name, states in ready.places.items()}
        marks = {ready.rows[row][col]: name for name, (row, col) in firsts.items()}
        return CityMap(ready.name, str(ready), {**marks, **symbols}, spots, options.slip, None)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a map; name a text file in it")
    if not path.is_file():
        raise FileNotFoundError(f"there is no map {path}; name a text file, or one of {', '.join(LAYOUTS)}")
    return CityMap(path.stem, _text(path), symbols, spots, options.slip, str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file; a map is drawn in characters, see scimeta city train --help"
        ) from error


def _named(pairs: Sequence[str]) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return symbol -> name, and name -> row and column, of what --place says."""
    from scimeta.commands.city_aims import cell_of

    symbols, spots = {}, {}
    for left, right in (_pair(pair, "--place", "L=NAME or NAME=ROW,COL, such as L=library") for pair in pairs):
        cell = cell_of(right)
        if cell is None and len(left) != 1:
            raise ValueError(f"--place {left}={right}: one letter of the map, or NAME=ROW,COL")
        if left in symbols or left in spots:
            raise ValueError(f"--place names {left} twice; once is enough")
        if cell is None:
            symbols[left] = right
        else:
            spots[left] = list(cell)
    return symbols, spots


def _pair(text: str, option: str, expected: str) -> tuple[str, str]:
    left, equals, right = (part.strip() for part in text.rpartition("="))
    if not (equals and left and right):
        raise ValueError(f"{option} {text}: expected {expected}")
    return left, right


def _settle(options: argparse.Namespace) -> None:
    """Fill in what was left out, and refuse what says two things."""
    if options.city and options.goal is None and not Path(options.city).exists() and "." not in options.city:
        options.city, options.goal = None, options.city  # scimeta city go park
    alone = options.city is options.goal is options.reward is options.rewards is None
    options.city = options.city or _CITY
    if alone:
        options.plot = options.plot or _PICTURE
    if sum(asked is not None for asked in (options.goal, options.reward, options.rewards)) > 1:
        raise ValueError("GOAL, --reward and --rewards each say what is wanted; take one of them")
    if options.sigma is not None and options.rewards is None:
        raise ValueError("--sigma is the noise of rewards that were met: pass them with --rewards CSV")
    if options.improve < 0:
        raise ValueError(f"--improve is a whole number, 0 or more; got {options.improve}")


def _load(path: str) -> LearnedCity:
    """Return the city of a file whose map is still the same."""
    from scimeta.commands.learned_city import LearnedCity

    if not Path(path).exists():
        raise FileNotFoundError(f"there is no city {path}; scimeta city train writes one")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a city; scimeta city train writes a file")
    try:
        known = LearnedCity.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole city file; scimeta city train writes one") from error
    source = known.map.source
    if source is not None and Path(source).is_file() and _text(Path(source)) != known.map.text:
        raise ValueError(
            f"{source} is another map now than {path} was trained on; train again: "
            f"scimeta city train {source} -o {path}"
        )
    return known


def _aim(known: LearnedCity, options: argparse.Namespace) -> tuple[Aim, Weights | None]:
    """Return what is wanted, and what was learned of it from rewards."""
    from scimeta.commands.city_aims import finite, goal, learned_preferences, preferences

    if options.rewards is not None:
        return learned_preferences(known, options.rewards, options.sigma)
    if options.reward is not None:
        pairs = [_pair(text, "--reward", "PLACE=NUMBER, such as park=1") for text in options.reward]
        wrong = [f"{left}={right}" for left, right in pairs if finite(right) is None]
        if wrong:
            raise ValueError(f"--reward {wrong[0]}: expected a finite number, such as 1 or -0.5")
        return preferences(known, [(left, float(right)) for left, right in pairs]), None
    places = list(known.city.places)
    return goal(known, options.goal or (places[-1] if places else known.name_of(len(known.city) - 1))), None


def _start(known: LearnedCity, aim: Aim, asked: str | None) -> int:
    """Return the state where the journey begins."""
    if asked is not None:
        from scimeta.commands.city_aims import states_of

        return int(states_of(known, asked)[0])
    goals = [] if aim.ends is None else aim.ends
    firsts = [int(states[0]) for states in known.city.places.values() if not set(states) & set(goals)]
    return next((state for state in [*firsts, *range(len(known.city))] if state not in goals), 0)

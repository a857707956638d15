"""``scimeta city`` as a user types it: train, go, and what is said of a mistake."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scimeta.cli import main
from scimeta.commands import learned_city
from scimeta.commands.city_aims import goal, preferences
from scimeta.commands.city_journey import judge, travel
from scimeta.commands.learned_city import LearnedCity
from scimeta.domains import gridworld
from simulators.gridworld import read_city
from tests.commands import mistakes

STREETS = """\
L..P#I
.##.#.
S~~.#.
"""
ONE_WAY = """\
A>B
##.
C..
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with maps, cities learned from them, and rewards that were met."""
    folder = tmp_path_factory.mktemp("city")
    (folder / "streets.txt").write_text(STREETS)
    (folder / "one_way.map").write_text(ONE_WAY)
    (folder / "seen.csv").write_text("place,reward\npark,1.0\npark,1.2\nstation,-0.4\n")
    for line in (
        "town -o {}/city.safetensors",
        "{}/streets.txt --place L=library P=park --place S=station I=island -o {}/streets.safetensors",
        "{}/one_way.map -o {}/one_way.safetensors",
        "four_rooms --place kitchen=2,3 bath=12,12 -o {}/rooms.safetensors",
    ):
        assert main(["city", "train", *shlex.split(line.replace("{}", str(folder)))]) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> Path:
    """A working copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], line: str, folder: Path) -> str:
    python = ("read_city", "grid_city", "state: ", "with_places", "learn_weights", "add some")
    return mistakes.refused(capsys, folder, f"city {line}", python)


def told(capsys: pytest.CaptureFixture[str], line: str) -> str:
    capsys.readouterr()
    assert main(["city", *shlex.split(line)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_two_commands_without_arguments_go_from_nothing_to_a_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = told(capsys, "train")
    for text in ("105 free cells, 5 places, 6 one-way, 3 slippery", "11 policies", "L....#....>>>...S"):
        assert text in said
    assert "next: scimeta city go city.safetensors cafe --plot city_route.png" in said
    said = told(capsys, "go")
    assert said.startswith("library -> 4 south, 9 east -> park -> ") and "-> cafe, 24 steps; shortest 24\n" in said
    assert "regret 0, " in said and "figure: city_route.png" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["city.safetensors", "city_route.png"]
    assert (tmp_path / "city_route.png").read_bytes().startswith(b"\x89PNG")


def test_a_route_is_said_and_written_step_by_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "go streets.safetensors park --start station --csv r.csv --plot r.svg")
    # By the ice it is 5 steps too, but feet may slip there.
    assert said.startswith("station -> 2 north -> library -> 3 east -> park, 5 steps; shortest 5\n")
    table = pd.read_csv("r.csv", keep_default_na=False)
    assert table["row"].tolist() == [2, 1, 0, 0, 0, 0] and table["col"].tolist() == [0, 0, 0, 1, 2, 3]
    assert table["place"].tolist() == ["station", "", "library", "", "", "park"]
    assert table["reward"].tolist() == [0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(table["value"], 20 * 0.95 ** np.array([4, 3, 2, 1, 0, 0]), rtol=1e-12)
    assert (folder / "r.svg").read_bytes().startswith(b"<?xml")


def test_a_route_goes_to_standard_output_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "go streets.safetensors park --start station --csv r.csv")
    line = "city go streets.safetensors park --start station --csv - --plot r.png"
    assert main(shlex.split(line)) == 0
    said = capsys.readouterr()
    assert said.out == (folder / "r.csv").read_text() and said.err.startswith("station -> 2 north")
    assert said.err.endswith("figure: r.png\n")


def test_train_reports_the_regrets_that_go_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = told(capsys, "train town -o again.safetensors")
    for name in ("library", "station", "park", "market", "cafe"):
        (row,) = (line.split() for line in report.splitlines() if line.split()[:1] == [name])
        assert row[-2:] == ["100%", "0"]
        assert "mean over all cells 0\n" in told(capsys, f"go again.safetensors {name}")
    (cells,) = (float(line.split()[-1]) for line in report.splitlines() if "cells drawn" in line)
    assert 0 < cells < 0.005  # the walk weighs slips by its own steps, not by the shortest ones


@pytest.mark.parametrize("weights", [[1, 0, 0, 0, 0], [1, -0.5, 0.3, -1, 0.8], [-1, -1, -1, -1, -1]])
def test_values_and_regrets_are_those_of_value_iteration(folder: Path, weights: list[float]) -> None:
    known = LearnedCity.load("city.safetensors")
    found = judge(known, preferences(known, list(zip(known.city.places, weights, strict=True))))
    rewards = known.city.features() @ weights
    best = gridworld.value_iteration(known.transitions, rewards, 0.95).values
    np.testing.assert_allclose(found.best, best, rtol=1e-9, atol=1e-11)
    values = np.zeros(len(known.city))
    for _ in range(600):
        values = gridworld.expect(known.transitions, rewards + 0.95 * values)[np.arange(len(values)), found.actions]
    np.testing.assert_allclose(found.values, values, rtol=1e-9, atol=1e-11)
    assert -1e-9 < found.regret.mean() < 0.005 and found.regret.max() < 0.1


def test_planning_further_leaves_nothing_to_gain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = LearnedCity.load("city.safetensors")
    aim = goal(known, "4,16")
    assert judge(known, aim).regret.mean() > 1e-4 and judge(known, aim, 10).regret.max() < 1e-9
    assert "mean over all cells 0.00068\n" in told(capsys, "go city.safetensors 4,16")
    assert "mean over all cells 0\n" in told(capsys, "go city.safetensors 4,16 --improve 10")


def test_a_large_city_keeps_its_places_alone_and_gives_the_same_routes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learned_city, "_MOST", 0)
    assert "of 5 places" in told(capsys, "train -o large.safetensors")
    assert "of 0 places" in told(capsys, "train maze -o maze.safetensors")
    small, large = LearnedCity.load("city.safetensors"), LearnedCity.load("large.safetensors")
    assert small.every_cell and not large.every_cell and large.successors.shape == (11, 105, 5)
    mixed = preferences(small, [("park", 1.0), ("cafe", -0.5), ("4,16", 0.7)])
    for aim in (goal(small, "cafe"), goal(small, "4,16"), mixed):
        np.testing.assert_array_equal(judge(small, aim).actions, judge(large, aim).actions)
    assert "68 steps; shortest 68" in told(capsys, "go maze.safetensors")


def test_preferences_lead_to_what_is_liked_and_round_what_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "go streets.safetensors --start station --reward park=1"
    assert told(capsys, line).startswith("station -> 2 north -> library -> 3 east -> park, 5 steps, and stays\n")
    shunned = told(capsys, line + " library=-5 --plot r.png")
    assert shunned.startswith("station -> 3 east, 2 north -> park, 5 steps, and stays (no foot slips with")
    assert "station, 0 steps, and stays" in told(capsys, line.replace("=1", "=0"))
    both = told(capsys, "go streets.safetensors --reward 0,1=1 park=0.5 0,1=2")
    assert both.startswith("library -> 1 east -> 0,1, 1 step, and stays\nexpected discounted reward 60, ")


def test_weights_are_learned_from_rewards_that_were_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "go streets.safetensors --rewards seen.csv --sigma 0.1 --start station")
    assert "reward weights from 3 rewards, noise sd 0.1, 90% intervals" in said
    (park,) = (line.split() for line in said.splitlines() if line.startswith("park"))
    half = 1.6449 * 0.1 / np.sqrt(2)
    np.testing.assert_allclose([float(n) for n in park[1:4]], [1.1, 1.1 - half, 1.1 + half], rtol=1e-3)
    assert "-> park, 5 steps, and stays" in said
    (folder / "cells.csv").write_text("Row;Col;Reward\n0;3;1,0\n0;3;1,2\n2;0;-0,4\n")
    assert told(capsys, "go streets.safetensors --rewards cells.csv --sigma 0.1 --start station") == said
    (folder / "cells.csv").write_text("place,row,col,reward\n,1,3,2\npark,0,3,1\n")
    assert "\n1,3" in told(capsys, "go streets.safetensors --rewards cells.csv")


def test_chance_is_said_where_feet_slip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "go streets.safetensors 2,3 --start station")
    # Beside the ice are walls: a slip stays where it is, and the route goes on.
    assert said.startswith("station -> 3 east -> 2,3, 3 steps; shortest 3 (no foot slips with probability 0.64)\n")
    known = LearnedCity.load("streets.safetensors")
    assert travel(known, goal(known, "2,3"), known.city.state(2, 0)).chance == pytest.approx(0.8**2, rel=1e-12)


def test_a_goal_alone_is_looked_for_in_the_usual_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "go park") == told(capsys, "go city.safetensors park --start library")
    assert told(capsys, "go city.safetensors library --start library").startswith("library, 0 steps; shortest 0\n")
    assert "kitchen -> " in told(capsys, "go rooms.safetensors") and not list(folder.glob("*.png"))


def test_one_way_streets_are_reached_from_one_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "go one_way.safetensors C --start A").startswith("A -> 2 east -> B -> 2 south, 2 west -> C, ")
    said = refused(capsys, "go one_way.safetensors A --start C --csv r.csv --plot r.png", folder)
    assert said == "scimeta: A cannot be reached from C: walls or one-way cells bar every way; route None\n"
    rows = [line.split() for line in told(capsys, "train one_way.map -o again").splitlines()]
    assert [row[3] for row in rows if row[:1] in (["A"], ["B"], ["C"])] == ["14%", "100%", "100%"]


def test_a_city_goes_with_its_map_and_not_with_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old in ("streets.txt", "streets.safetensors"):
        (folder / "moved").mkdir(exist_ok=True)
        shutil.copy(old, "moved")
    (folder / "streets.txt").write_text(STREETS.replace("L..P", "L#.P"))
    said = refused(capsys, "go streets.safetensors park", folder)
    assert "streets.txt is another map now than streets.safetensors was trained on; train again: scimeta city" in said
    assert "shortest 3" in told(capsys, "go moved/streets.safetensors park")
    (folder / "streets.txt").unlink()
    assert "shortest 3" in told(capsys, "go streets.safetensors park")


def test_the_file_brings_the_same_city_back(folder: Path) -> None:
    known = LearnedCity.load("streets.safetensors")
    city = read_city(STREETS, {"L": "library", "P": "park", "S": "station", "I": "island"})
    assert known.city.rows == city.rows and list(known.city.places) == list(city.places)
    np.testing.assert_array_equal(known.city.next, city.next)
    np.testing.assert_array_equal(known.city.probability, city.probability)
    walk = gridworld.factorize(known.transitions, known.policies[0], 0.95)
    np.testing.assert_allclose(known.successors[0], walk.solve(np.eye(len(city))), rtol=1e-12)
    assert known.names[:2] == ("walk", "to library") and known.names[-1] == "to island, no other"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train none.txt", "there is no map none.txt; name a text file, or one of town, four_rooms"),
        ("train .", ". is a folder, not a map"),
        ("train city.safetensors", "city.safetensors is not a text file; a map is drawn in characters"),
        ("train walls.txt", "walls: the map has no free cell; draw some as '.'"),
        ("train empty.txt", "the map of 'empty' is empty"),
        ("train odd.txt", "odd: unknown symbol '?' in row 1, column 2; use # for walls"),
        ("train --gamma 1", "gamma must be at least 0 and below 1, so that values are finite; got 1.0"),
        ("train --gamma -0.1", "gamma must be at least 0 and below 1"),
        ("train --gamma nan", "gamma must be at least 0 and below 1"),
        ("train --slip 2", "slip must be a probability, from 0 to 1; got 2.0"),
        ("train --place library", "--place library: expected L=NAME or NAME=ROW,COL"),
        ("train --place Lib=library", "--place Lib=library: one letter of the map, or NAME=ROW,COL"),
        ("train --place X=library", "no cell is marked 'X'"),
        ("train --place L=a L=b", "--place names L twice; once is enough"),
        ("train --place home=1,1", "the cell (1, 1) is a wall; choose a free one"),
        ("train --place home=99,0", "(99, 0) is outside the map"),
        ("train --place park=0,1", "town: the place 'park' is on the map already; choose another name"),
        ("train -o no/c", "cannot write no/c: the folder no does not exist"),
        ("train streets.txt -o streets.txt", "streets.txt would replace what is read"),
        ("go none.safetensors", "there is no city none.safetensors; scimeta city train writes one"),
        ("go .", ". is a folder, not a city"),
        ("go streets.txt", "streets.txt is not a whole city file; scimeta city train writes one"),
        ("go cut.safetensors", "cut.safetensors is not a whole city file"),
        ("go bent.safetensors", "bent.safetensors is not a whole city file"),
        ("go other.safetensors", "other.safetensors is not a whole city file"),
        ("go bakery", "Unknown place 'bakery' of city 'town'; its places are library, station, park, market, cafe"),
        ("go plain.safetensors bakery", "its places are none; name a cell as ROW,COL, or train with --place NAME="),
        ("go city.safetensors park --start bakery", "Unknown place 'bakery'"),
        ("go city.safetensors 1,1", "the cell (1, 1) is a wall"),
        ("go city.safetensors 0,99", "(0, 99) is outside the map"),
        ("go streets.safetensors island", "island cannot be reached from library: walls or one-way cells bar every"),
        ("go myopic.safetensors cafe", "likeliest steps do not lead to cafe, 24 steps away or more; let it plan"),
        ("go --reward park", "--reward park: expected PLACE=NUMBER, such as park=1"),
        ("go --reward park=nan", "--reward park=nan: expected a finite number"),
        ("go --reward park=1e999", "--reward park=1e999: expected a finite number"),
        ("go --reward bakery=1", "Unknown place 'bakery'"),
        ("go --reward park=1 --rewards seen.csv", "take one of them"),
        ("go park --reward park=1", "GOAL, --reward and --rewards each say what is wanted"),
        ("go park --sigma 1", "pass them with --rewards CSV"),
        ("go park --improve -1", "--improve is a whole number, 0 or more; got -1"),
        ("go --rewards seen.csv --sigma -1", "sigma must be 0 or more"),
        ("go --rewards none.csv", "there is no file none.csv"),
        ("go --rewards nan.csv", "nan.csv, row 3, column 'reward': 'nan' is not a finite number; correct it or delete"),
        ("go --rewards unknown.csv", "unknown.csv, row 2, column 'place': Unknown place 'bakery'"),
        ("go --rewards wall.csv", "wall.csv, row 2, column 'row': the cell (1, 1) is a wall"),
        ("go --rewards columns.csv", "columns.csv: there is no column 'reward', only 'place', 'worth'; expected place"),
        ("go --rewards nowhere.csv", "nowhere.csv: there is no column 'row', only 'where', 'reward'; expected place"),
        ("go --rewards header.csv", "header.csv: there are no rows below the header"),
        ("go park --plot r", "--plot r: name a .png, .pdf or .svg, such as r.png"),
        ("go park --csv no/r.csv", "cannot write no/r.csv: the folder no does not exist"),
        ("go park --csv city.safetensors", "city.safetensors would replace what is read"),
        ("go --rewards seen.csv --csv seen.csv", "seen.csv would replace what is read"),
        ("go streets.safetensors park --csv streets.txt", "streets.txt would replace what is read"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    whole = (folder / "city.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    (folder / "bent.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for name, text in {
        "walls.txt": "###\n###\n",
        "empty.txt": "",
        "odd.txt": "...\n..?\n",
        "nan.csv": "place,reward\npark,1\ncafe,nan\n",
        "unknown.csv": "place,reward\nbakery,1\n",
        "wall.csv": "row,col,reward\n1,1,1\n",
        "columns.csv": "place,worth\npark,1\n",
        "nowhere.csv": "where,reward\npark,1\n",
        "header.csv": "place,reward\n",
    }.items():
        (folder / name).write_text(text)
    if "plain" in line:
        assert main(["city", "train", "four_rooms", "-o", "plain.safetensors"]) == 0
    if "myopic" in line:
        assert main(["city", "train", "--gamma", "0", "-o", "myopic.safetensors"]) == 0
    learned_city.write_state("other.safetensors", {"kind": "another"})
    assert said in refused(capsys, line, folder)


def test_a_picture_that_fails_leaves_every_file_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    assert "no space left" in refused(capsys, "go park --csv r.csv --plot r.png", folder)


def test_help_shows_the_two_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for command, example in (("city", "scimeta city go "), ("city train", "L=library"), ("city go", "market=-0.5")):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--help"])
        assert ended.value.code == 0
        assert example in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["city"])
    assert ended.value.code == 2


def test_in_a_long_city_the_walk_is_busier_so_that_its_far_end_is_not_lost() -> None:
    corridor = learned_city.CityMap("corridor", "." * 500, {}, {}, 0.2, None)
    known = learned_city.learn_city(corridor, 0.95)
    actions = known.improved(np.zeros(0), np.eye(500)[499], walk_alone=True)
    assert (actions[:499] == 3).all()  # east

"""The command as a user types it: what it prints, what it writes, and what it says of a mistake."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scimeta import datasets, learn_prior, read_curves
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.cli import LAWS, main
from scimeta.domains import kinetics
from tests.commands import mistakes

POINTS = "alloy,time [s],fraction\nA61,10,-0.008\nA61,20,0.0504\nA61,30,0.1342\nA61,40,0.2754\n"
OWN_LAW = '''"""A law of the user's own."""
import torch

from scimeta import Axis, Law, Parameter

release = Law(
    "first-order release",
    lambda t, rate: -torch.expm1(-rate * t),
    {"rate": Parameter("1/h", "positive")},
    x=Axis("time", "h"),
    y=Axis("released"),
)
scalar = Law("scalar", lambda t, rate: rate, {"rate": Parameter("1/h", "positive")})
misspelt = Law("misspelt", lambda t, rat: rat * t, {"rate": Parameter("1/h", "positive")})
'''


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior file as the command writes it, learned from the alloys that ship."""
    path = tmp_path_factory.mktemp("learned") / "prior.json"
    assert main(["learn", str(datasets.path("jmak_alloys")), "--law", "jmak", "--by", "alloy", "-o", str(path)]) == 0
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: Path) -> Path:
    """A working folder with a prior, a table of past alloys and one of a new alloy."""
    shutil.copy(learned, tmp_path / "prior.json")
    shutil.copy(datasets.path("jmak_alloys"), tmp_path / "past.csv")
    (tmp_path / "new.csv").write_text(POINTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, line: str) -> str:
    python = ("curves.convert", "=True", "=None", "learn_prior", "read_curves", "KeyError")
    return mistakes.refused(capsys, folder, line, python)


def test_without_arguments_fit_runs_the_shipped_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit"]) == 0
    said = capsys.readouterr()
    for text in (
        "41 past runs of batches D to G",
        "H-abs-03a | 4 points",
        "90% interval",
        "data : prior",
        "solve: converged",
        "from all 224 readings with n = 0.8: 0.08794 1/s (the unit of time is inferred)",
        "fit.png",
    ):
        assert text in said.out
    assert said.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["fit.png"]
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_learned_is_what_is_fitted_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("fit prior.json new.csv --by alloy --csv fit.csv --plot fit.png")) == 0
    prior = Prior.load(folder / "prior.json", kinetics.JMAK)
    fit = Calibrator(kinetics.JMAK, prior).fit([10, 20, 30, 40], [-0.008, 0.0504, 0.1342, 0.2754], name="A61")
    assert str(fit) in capsys.readouterr().out
    table = pd.read_csv(folder / "fit.csv")
    assert table["specimen"].tolist() == ["A61"]
    assert table["k [1/s]"][0] == pytest.approx(fit["k"].value, rel=1e-12)
    assert table["k lower [1/s]"][0] == pytest.approx(fit["k"].lower, rel=1e-12)
    assert table["n"][0] == pytest.approx(fit["n"].value, rel=1e-12)
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_many_specimens_give_one_row_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("fit prior.json past.csv --by alloy --level 0.5 --csv fits.csv --plot fits.pdf")) == 0
    table = pd.read_csv(folder / "fits.csv")
    assert table["specimen"].tolist() == list(datasets.alloys().names)
    truth = np.array([datasets.alloys_truth()[name]["k"] for name in table["specimen"]])
    inside = (table["k lower [1/s]"] < truth) & (truth < table["k upper [1/s]"])
    assert 0.3 < inside.mean() < 0.7  # of 60 intervals that hold half
    assert (folder / "fits.pdf").read_bytes().startswith(b"%PDF")
    assert "60 specimens" in capsys.readouterr().out


def test_learning_draws_the_population(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("learn past.csv --law jmak --by alloy -o again.json --plot again.png")) == 0
    assert (folder / "again.json").read_bytes() == (folder / "prior.json").read_bytes()
    assert (folder / "again.png").read_bytes().startswith(b"\x89PNG")
    assert "prior of law JMAK, from 60 specimens" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + POINTS).encode(),
        POINTS.replace(",", ";").replace(".", ",").encode(),
        POINTS.replace(",", "\t").encode("utf-16"),
        ("sep=;\n" + POINTS.replace(",", ";")).replace("\n", "\r\n").encode(),
    ],
    ids=["bom", "semicolons and decimal commas", "utf-16 with tabs", "excel's sep line"],
)
def test_every_dialect_gives_the_same_report(folder: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    assert main(shlex.split("fit prior.json new.csv --by alloy")) == 0
    expected = capsys.readouterr().out
    (folder / "new.csv").write_bytes(content)
    assert main(shlex.split("fit prior.json new.csv --by alloy")) == 0
    assert capsys.readouterr().out == expected
    (folder / "new.csv").write_bytes(content.replace("alloy".encode("utf-16-le"), "Specimen".encode("utf-16-le"))
                                     .replace(b"alloy", b"Specimen"))  # fmt: skip
    assert main(shlex.split("fit prior.json new.csv")) == 0
    assert capsys.readouterr().out == expected


def test_one_point_of_a_new_specimen_is_enough(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.csv").write_text("time,fraction\n20,0.05\n")
    assert main(shlex.split("fit prior.json new.csv")) == 0
    assert "new | 1 point | " in capsys.readouterr().out


def test_minutes_and_percent_convert_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("fit prior.json new.csv --by alloy --csv seconds.csv")) == 0
    rows = [line.split(",") for line in POINTS.splitlines()[1:]]
    lines = [f"{alloy},{float(time) / 60!r},{100 * float(y)!r}\n" for alloy, time, y in rows]
    (folder / "new.csv").write_text("alloy,time [min],fraction [%]\n" + "".join(lines))
    said = refused(capsys, folder, "fit prior.json new.csv --by alloy")
    assert said == "scimeta: time: curves are in min, law JMAK expects s; pass --convert\n"
    assert main(shlex.split("fit prior.json new.csv --by alloy --convert --csv minutes.csv")) == 0
    seconds, minutes = (pd.read_csv(folder / f"{unit}.csv") for unit in ("seconds", "minutes"))
    pd.testing.assert_frame_equal(seconds, minutes, rtol=1e-9)


def test_percent_that_could_pass_for_fractions_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.csv").write_text("time [s],fraction [%]\n10,0.4\n20,1.2\n")
    said = refused(capsys, folder, "fit prior.json new.csv")
    assert (
        said
        == "scimeta: fraction: curves are in %, law JMAK names no unit; pass --convert, or name the unit in the law\n"
    )


def test_groups_and_noise_are_those_of_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (folder / "past.csv").read_text().splitlines()
    by = rows[0].split(",").index("alloy")
    batches = [f"{row},b{sum(map(ord, row.split(',')[by])) % 3}" for row in rows[1:]]
    (folder / "batches.csv").write_text("\n".join([f"{rows[0]},batch", *batches]) + "\n")
    assert main(shlex.split("learn batches.csv --law jmak --by alloy --groups batch --noise constant -o g.json")) == 0
    assert "each group left out in turn: b0 " in capsys.readouterr().out
    learned = Prior.load(folder / "g.json", kinetics.JMAK).learned
    assert learned is not None and set(learned.groups.values()) == {"b0", "b1", "b2"}
    assert main(shlex.split("learn past.csv --law jmak --by alloy --noise loud -o g.json")) == 2
    assert 'noise is "auto" or one of constant' in capsys.readouterr().err


def test_conditions_move_the_prior_and_must_be_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = pd.read_csv(folder / "past.csv")
    k = past["alloy"].map({name: row["k"] for name, row in datasets.alloys_truth().items()})
    past["hardener"] = np.log(k / 0.01)  # what makes an alloy fast is known of each
    past.to_csv(folder / "past.csv", index=False)
    assert main(shlex.split("learn past.csv --law JMAK --by alloy --conditions hardener -o c.json")) == 0
    assert "effect per unit of hardener (unconstrained): k +" in capsys.readouterr().out
    assert "no column 'hardener'" in refused(capsys, folder, "fit c.json new.csv --by alloy")
    (folder / "new.csv").write_text("alloy,time [s],fraction,hardener\nA,10,0.01,1.2\n")
    assert main(shlex.split("fit c.json new.csv --by alloy --csv c.csv")) == 0
    assert pd.read_csv(folder / "c.csv")["k [1/s]"][0] == pytest.approx(0.01 * np.exp(1.2), rel=0.1)


HOT = "specimen,temperature [degC],grade,time [s],fraction"


def hot_table(path: Path) -> None:
    """Write specimens at four temperatures, of two grades, one 1.6 times as fast as the other."""
    rng, rows = np.random.default_rng(0), [HOT]
    for i, celsius in enumerate(np.repeat((100, 110, 120, 130), 4)):
        grade = ("316L", "304L")[i % 2]
        k = 0.01 * np.exp(-110e3 / 8.314 * (1 / (celsius + 273.15) - 1 / 388.15) + 0.1 * rng.standard_normal())
        k *= 1.6 if grade == "304L" else 1.0
        for t in np.linspace(0.2, 2, 8) / k:
            y = 1 - np.exp(-((k * t) ** 2.5)) + 0.01 * rng.standard_normal()
            rows.append(f"S{i},{celsius},{grade},{t:.2f},{y:.4f}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_a_condition_may_be_a_form_of_a_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `--conditions 1/temperature` learns is what Python learns, and either's file fits a table."""
    hot_table(folder / "hot.csv")
    past = read_curves(folder / "hot.csv", conditions=["temperature"])
    ours = learn_prior(kinetics.JMAK, past, conditions=["1/temperature"])
    ours.save(folder / "python.json")
    assert main(shlex.split("learn hot.csv --law jmak --conditions 1/temperature -o command.json")) == 0
    assert str(ours.activation_energy("k")) in capsys.readouterr().out
    assert (folder / "command.json").read_text() == (folder / "python.json").read_text()
    (folder / "new.csv").write_text(f"{HOT}\nN,115,304L,60,0.2\nN,115,304L,80,0.35\n", encoding="utf-8")
    for prior in ("command.json", "python.json"):
        assert main(shlex.split(f"fit {prior} new.csv --csv {prior}.csv")) == 0
        assert main(shlex.split(f"next {prior} new.csv")) == 0
    assert (folder / "command.json.csv").read_text() == (folder / "python.json.csv").read_text()
    (folder / "new.csv").write_text("specimen,time [s],fraction\nN,60,0.2\n", encoding="utf-8")
    assert "there is no column 'temperature" in refused(capsys, folder, "fit command.json new.csv")


def test_a_condition_may_be_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hot_table(folder / "hot.csv")
    assert main(shlex.split("learn hot.csv --law jmak --conditions grade,1/temperature -o graded.json")) == 0
    printed = capsys.readouterr().out
    assert re.search(r"grade = 304L: k x 1\.\d+ \(1\.\d+ to 1\.\d+\), n .* against 316L", printed)
    new = f"{HOT}\nN,115,304L,60,0.2\nN,115,304L,80,0.35\n"
    (folder / "new.csv").write_text(new, encoding="utf-8")
    assert main(shlex.split("fit graded.json new.csv")) == 0
    (folder / "new.csv").write_text(new.replace("304L", "347"), encoding="utf-8")
    assert "N: condition 'grade' is text, one of 316L, 304L; got" in refused(capsys, folder, "fit graded.json new.csv")
    (folder / "new.csv").write_text(new.replace("304L", "347H"), encoding="utf-8")
    assert "which knows 316L, 304L" in refused(capsys, folder, "fit graded.json new.csv")


def test_a_law_of_the_users_own_learns_and_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_laws.py").write_text(OWN_LAW)
    rng, time = np.random.default_rng(0), np.arange(1.0, 9.0)
    rates = 0.2 * np.exp(0.3 * rng.standard_normal(12))
    released = 1 - np.exp(-rates[:, None] * time) + 0.01 * rng.standard_normal((12, 8))
    rows = {"specimen": np.repeat(np.arange(12), 8), "time [h]": np.tile(time, 12), "released": released.ravel()}
    pd.DataFrame(rows).to_csv(folder / "tablets.csv", index=False)
    assert main(shlex.split("learn tablets.csv --law my_laws.py:release -o own.json")) == 0
    said = refused(capsys, folder, "fit own.json tablets.csv")
    assert "is of law 'first-order release'" in said
    assert "--law FILE.py:NAME" in said
    assert main(shlex.split("fit own.json tablets.csv --law my_laws.py:release --csv own.csv")) == 0
    assert pd.read_csv(folder / "own.csv")["rate [1/h]"].to_numpy() == pytest.approx(rates, rel=0.1)


def test_what_to_measure_next_is_what_the_fit_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "next prior.json new.csv --by alloy --candidates 20:200:10 --target k --csv next.csv --plot next.png"
    assert main(shlex.split(line)) == 0
    prior = Prior.load(folder / "prior.json", kinetics.JMAK)
    fit = Calibrator(kinetics.JMAK, prior).fit([10, 20, 30, 40], [-0.008, 0.0504, 0.1342, 0.2754], name="A61")
    plan = fit.next_measurement(np.linspace(20, 200, 10), "k")
    said = capsys.readouterr().out
    assert str(plan) in said and "scores: next.csv" in said and "figure: next.png" in said
    table = pd.read_csv(folder / "next.csv")
    assert list(table.columns) == ["specimen", "time [s]", "expected std of k [1/s]"]
    assert table["expected std of k [1/s]"].to_numpy() == pytest.approx(plan.score, rel=1e-12, nan_ok=True)
    assert table["expected std of k [1/s]"].isna().sum() == 2  # 20 and 40 s were measured
    assert (folder / "next.png").read_bytes().startswith(b"\x89PNG")


def test_without_candidates_the_range_of_the_past_is_searched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("next prior.json new.csv --by alloy")) == 0
    past = np.concatenate([curve.x for curve in datasets.alloys()])
    said = capsys.readouterr().out
    assert f"of 60 candidates from {past.min():.4g} to {past.max():.4g} s" in said
    assert "expected to tell" in said
    assert main(shlex.split("next prior.json new.csv --by alloy --candidates 50,100 --target 150")) == 0
    assert "std of fraction at time = 150 s is expected to go" in capsys.readouterr().out


def test_many_specimens_are_each_told_what_is_next(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.csv").write_text(POINTS + "B,50,0.3\nC,10,1.4\nC,20,0.0\nC,30,1.4\n")
    assert main(shlex.split("next prior.json new.csv --by alloy --candidates 60,90,120 --csv next.csv")) == 0
    said = capsys.readouterr()
    assert "specimen  measure at time [s]  expected information [nats]" in said.out
    assert "warning: C is left out: no next measurement of C: " in said.err
    assert pd.read_csv(folder / "next.csv")["specimen"].tolist() == ["A61"] * 3 + ["B"] * 3


def test_rows_of_several_specimens_taken_as_one_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.csv").write_text(POINTS + "B,50,0.9\n")
    assert main(shlex.split("fit prior.json new.csv")) == 0
    assert "warning: all rows of new.csv are read as one specimen; do you mean --by 'alloy'?" in capsys.readouterr().err


def test_declared_replicates_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.csv").write_text(POINTS + "A61,40,0.27\n")
    assert main(shlex.split("fit prior.json new.csv --by alloy --replicates")) == 0
    assert "A61 | 5 points" in capsys.readouterr().out


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command, example in {
        "learn": "scimeta learn past.csv --law jmak",
        "fit": "scimeta fit prior.json new.csv",
        "next": "scimeta next prior.json new.csv --candidates",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "examples:" in said
        assert example in said
    assert "jmak" in LAWS


HEAD = "alloy,time [s],fraction\n"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (HEAD + "A,10,nan\n", "new.csv, row 2, column 'fraction': the value is missing; fill it in or delete the row"),
        (HEAD + "A,10,inf\n", "new.csv, row 2, column 'fraction': inf is infinite; correct it or delete the row"),
        (HEAD + "A,ten,0.1\n", "new.csv, row 2, column 'time [s]': 'ten' is not a number"),
        (HEAD + "A,-10,0.1\n", "specimen 'A': time -10 is negative: count times from the start"),
        (HEAD + "A,10,5\nA,20,40\n", "fraction 5 at time 10 lies far above 1: divide by 100 if these are percent"),
        (HEAD + "A,10,0.1\nA,10,0.2\n", "or pass --replicates if they are independent readings"),
        (HEAD + "A,10,0.1\nA,10,0.1\n", "or pass --replicates if both were taken"),
        (HEAD, "new.csv: there are no rows below the header; add the measurements"),
        ("", "new.csv is empty; expected a header"),
        (HEAD + "A,10,0,03\n", "row 2: 4 cells, but the header has 3; .* separate the columns by semicolons"),
        ("alloy,t,fraction\nA,1,0.1\n", "there is no column 'time'; the table has 'alloy', 't', 'fraction'"),
        ("alloy,time,X\nA,1,0.1\n", "there is no column 'fraction'"),
        ("metal,time,fraction\nA,1,0.1\n", "no column 'alloy'; .* leave --by out if the whole table is one specimen"),
        ("alloy,time [degC],fraction\nA,1,0.1\n", "is time .degC. the right column for the law's time .s.\\?"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], table: str, said: str
) -> None:
    (folder / "new.csv").write_text(table)
    sentence = refused(capsys, folder, "fit prior.json new.csv --by alloy --csv fit.csv --plot fit.png")
    assert re.search(said.replace("[s]", ".s."), sentence), sentence


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit prior.json none.csv", "there is no file none.csv"),
        ("fit none.json new.csv", "no prior file none.json; make one with scimeta learn"),
        ("fit prior.json", "fit takes a prior and a table"),
        ("fit new.csv prior.json", "new.csv is not a prior file"),
        ("fit --by alloy", "scimeta fit PRIOR.json NEW.csv"),
        ("fit prior.json new.csv --by alloy --level 90", "level must lie between 0 and 1; got 90"),
        ("fit prior.json new.csv --by alloy --law logistic", "was learned with another law: its name is 'JMAK'"),
        ("fit prior.json new.csv --by alloy --law jmakk", "no law 'jmakk'; there are austin-rickett, "),
        ("fit prior.json new.csv --by alloy --x fraction", "x and y are both column 'fraction'"),
        ("fit prior.json new.csv --by alloy --sigma sd", "there is no column 'sd'"),
        ("fit prior.json new.csv --by alloy --conditions T", "there is no column 'T'"),
        ("fit prior.json new.csv --by alloy --csv no/fit.csv", "cannot write no/fit.csv: the folder no does not exist"),
        ("fit prior.json new.csv --by alloy --csv fit.csv --plot no/fit.png", "cannot write no/fit.png"),
        (
            "fit prior.json new.csv --by alloy --csv fit.csv --plot fit",
            "--plot fit: name a .png, .pdf or .svg, such as fit.png",
        ),
        ("fit prior.json new.csv --by alloy --csv fit.csv --plot fit.xyz", "--plot fit.xyz: name a .png"),
        ("fit prior.json new.csv --by alloy --csv .", "cannot write .: it is a folder"),
        ("fit prior.json new.csv --by alloy --csv ./new.csv", "./new.csv would replace what is read"),
        ("learn past.csv --law jmak --by alloy -o past.csv", "past.csv would replace what is read"),
        ("learn past.csv --law jmak --by alloy -o no/p.json", "cannot write no/p.json: the folder no does not exist"),
        ("learn past.csv --law jmak --by alloy -o p.json --plot p.xyz", "--plot p.xyz: name a .png"),
        ("learn new.csv --law jmak --by alloy -o p.json", "learning needs at least 3 specimens for 2 parameters"),
        ("learn one.csv --law jmak -o p.json", "was read as one specimen; name the column of the specimens with --by"),
        ("learn past.csv --law jmak --by alloy --conditions T -o p.json", "there is no column 'T'"),
        ("learn past.csv --law nope.py:x --by alloy -o p.json", "no file nope.py to take the law x from"),
        ("learn past.csv --law laws.py:x --by alloy -o p.json", "no law 'x'; it has release, scalar, misspelt"),
        ("learn past.csv --law laws.py:scalar --by alloy -o p.json --x time --y fraction", "fn returned shape ()"),
        (
            "learn past.csv --law laws.py:misspelt --by alloy -o p.json --x time --y fraction",
            "argument 'rate'; write it",
        ),
        ("learn past.csv --law broken.py:x --by alloy -o p.json", "broken.py does not run: ZeroDivisionError"),
        ("learn past.csv --law syntax.py:x --by alloy -o p.json", "syntax.py does not run: SyntaxError"),
        ("next none.json new.csv", "no prior file none.json; make one with scimeta learn"),
        ("next prior.json new.csv --by alloy --candidates 1:2", "expected numbers as in 10,20,40, or FROM:TO:COUNT"),
        ("next prior.json new.csv --by alloy --candidates 1,two", "--candidates: 'two' is not a number"),
        ("next prior.json new.csv --by alloy --candidates ,", "candidates have shape (0,); pass a flat array of one x"),
        ("next prior.json new.csv --by alloy --candidates nan", "candidates[0] is not finite"),
        (
            "next prior.json new.csv --by alloy --candidates 5,-5",
            "candidates[1] = -5 is outside the law's domain: time",
        ),
        ("next prior.json new.csv --by alloy --target K", "Unknown target 'K' of law JMAK; it has k [1/s], n"),
        ("next prior.json new.csv --by alloy --candidates 10", "A61 was measured at every candidate already"),
        ("next prior.json past.csv --by alloy --plot next.png", "--plot draws one specimen, past.csv has 60"),
        ("next prior.json new.csv --by alloy --csv new.csv", "new.csv would replace what is read"),
        ("fit prior.json nounit.csv --convert", "column 'time' names no unit; state it, as in --x 'time [unit]'"),
    ],
)
def test_a_mistake_in_the_line_is_answered_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    (folder / "laws.py").write_text(OWN_LAW)
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "nounit.csv").write_text("time,fraction\n1,0.1\n")
    (folder / "one.csv").write_text("time,fraction\n10,0.1\n20,0.2\n")
    assert said in refused(capsys, folder, line)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_prior_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], part: float) -> None:
    whole = (folder / "prior.json").read_text(encoding="utf-8")
    (folder / "prior.json").write_text(whole[: int(part * len(whole))], encoding="utf-8")
    said = refused(capsys, folder, "fit prior.json new.csv --by alloy --csv fit.csv")
    assert "prior.json is not a whole prior file" in said
    assert "learn the prior again" in said


def test_a_picture_that_fails_leaves_every_file_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    for line in (
        "fit prior.json new.csv --by alloy --csv fit.csv --plot fit.png",
        "learn past.csv --law jmak --by alloy -o p.json --plot p.png",
    ):
        assert "no space left" in refused(capsys, folder, line)


@pytest.mark.parametrize("line", ["", "frobnicate", "learn past.csv --law jmak", "fit a b c"])
def test_what_the_parser_cannot_read_exits_2(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    assert ended.value.code == 2
    assert "usage: scimeta" in capsys.readouterr().err


def test_the_installed_command_answers_with_its_exit_code(tmp_path: Path) -> None:
    script = shutil.which("scimeta", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-c", "from scimeta.cli import main; raise SystemExit(main())"]
    run = subprocess.run(
        [*command, "fit", "none.json", "none.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "scimeta: no prior file none.json; make one with scimeta learn\n"


def test_candidates_must_be_named_where_no_past_says_how_far_x_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Prior.by_hand(kinetics.JMAK, [[-4.1, 0.9]], [[0.3, 0.0], [0.0, 0.02]], 0.02).save(folder / "hand.json")
    assert main(shlex.split("next hand.json new.csv --by alloy")) == 2
    assert "set by hand and knows no range of x; pass --candidates" in capsys.readouterr().err
    assert main(shlex.split("next hand.json new.csv --by alloy --candidates 60:90:4")) == 0

"""What the command writes, and where: files, standard output, pipes; and what it reads from standard input."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from scimeta import datasets
from scimeta.calibration.family.prior import Prior
from scimeta.cli import main
from scimeta.commands.outputs import check_outputs, write
from scimeta.domains import kinetics
from tests.commands import mistakes

POINTS = "alloy,time [s],fraction\nA61,10,-0.008\nA61,20,0.0504\nA61,30,0.1342\nA61,40,0.2754\n"
FIT, NEXT = "fit prior.json new.csv --by alloy", "next prior.json new.csv --by alloy --candidates 60,90"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a prior, and the points of a new alloy."""
    Prior.by_hand(kinetics.JMAK, [[-4.1, 0.9]], [[0.3, 0.0], [0.0, 0.02]], noise=0.02).save(tmp_path / "prior.json")
    (tmp_path / "new.csv").write_text(POINTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table_of(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[pd.DataFrame, str]:
    """Return the table that a command wrote to standard output, which holds nothing else, and what it said."""
    capsys.readouterr()
    assert main(shlex.split(line)) == 0
    said = capsys.readouterr()
    return pd.read_csv(io.StringIO(said.out)), said.err


@pytest.mark.parametrize("line", [FIT, NEXT])
def test_a_table_on_standard_output_is_the_table_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert main(shlex.split(f"{line} --csv out.csv")) == 0
    report = capsys.readouterr().out
    table, said = table_of(f"{line} --csv - --plot fit.png", capsys)
    pd.testing.assert_frame_equal(table, pd.read_csv("out.csv"))
    assert report.splitlines()[:-1] == said.splitlines()[:-1]  # the report, on standard error
    assert said.endswith("figure: fit.png\n")
    assert sorted(os.listdir(folder)) == ["fit.png", "new.csv", "out.csv", "prior.json"]


def test_a_prior_on_standard_output_is_json_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = datasets.path("jmak_alloys")
    assert main(["learn", str(table), "--law", "jmak", "--by", "alloy", "-o", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["law"]["name"] == "JMAK" and "from 60 specimens" in said.err


def test_tabs_separate_what_is_called_tsv(folder: Path) -> None:
    for name in ("fit.csv", "fit.tsv", "fit.txt"):
        assert main(shlex.split(f"{FIT} --csv {name}")) == 0
    pd.testing.assert_frame_equal(pd.read_csv("fit.tsv", sep="\t"), pd.read_csv("fit.csv"))
    assert Path("fit.txt").read_bytes() == Path("fit.csv").read_bytes()


@pytest.mark.parametrize("suffix", ["eps", "jpg", "JPEG", "pdf", "png", "svg", "svgz", "tiff", "webp"])
def test_every_picture_that_matplotlib_writes_is_written(folder: Path, suffix: str) -> None:
    assert main(shlex.split(f"{FIT} --plot fit.{suffix}")) == 0
    assert Path(f"fit.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{FIT} --csv out.xlsx", "cannot write out.xlsx: a table is not written as .xlsx; name it out.csv"),
        (f"{FIT} --csv out.parquet --plot fit.png", "name it out.csv"),
        (f"{NEXT} --csv out.json", "name it out.csv"),
        ("learn new.csv --law jmak --by alloy -o prior.xlsx", "a prior is not written as .xlsx; name it prior.json"),
        ("learn new.csv --law jmak --by alloy -o prior.csv", "name it prior.json"),
        (f"{FIT} --plot -", "--plot -: a picture does not go to standard output; name a file, such as plot.png"),
        (f"{FIT} --plot fit.xlsx", "--plot fit.xlsx: name a .png, .pdf or .svg, such as fit.png"),
        (f"{FIT} --csv ''", "the name of a file to write is empty"),
        (f"{FIT} --csv out/", "cannot write out/: it is a folder"),
        (f"{FIT} --csv back.csv", "back.csv would replace what is read"),
        (f"{FIT} --csv out.csv --plot twice.csv", "twice.csv is named for two things to write"),
        ("fit - new.csv --by alloy", "no prior file -; make one with scimeta learn"),
        ("fit pipe new.csv --by alloy", "pipe is a pipe or a device; save the prior to a file and name that"),
        ("fit prior.json folder --by alloy", "folder is a directory; pass the path of a table in it"),
        ("city train -o city.pt", "what was learned is not written as .pt; name it city.safetensors"),
        ("city train -o -", "what was learned is binary, and standard output takes text"),
        ("arm simulate -o no/such/folder", "cannot write no/such/folder: the folder no/such does not exist"),
    ],
)
def test_a_file_that_could_not_be_right_is_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    (folder / "back.csv").symlink_to("new.csv")
    (folder / "twice.csv").symlink_to("out.csv")
    (folder / "folder").mkdir()
    os.mkfifo("pipe")
    assert said in mistakes.refused(capsys, folder, line, ("write_atomically",))


def test_devices_may_be_named_for_several_things(folder: Path) -> None:
    assert main(shlex.split(f"{FIT} --csv {os.devnull} --plot {os.devnull}")) == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_pipes_and_links_are_written_through(folder: Path) -> None:
    os.mkfifo("pipe")
    Path("link.csv").symlink_to("shared.csv")
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(Path("pipe").read_text()), daemon=True)
    thread.start()
    for name in ("pipe", "link.csv"):
        check_outputs([], [name])
        write(name, b"a,b\n1,2\n", "estimates")
    thread.join(10)
    assert found == ["a,b\n1,2\n"] and stat.S_ISFIFO(os.lstat("pipe").st_mode)
    assert Path("link.csv").is_symlink() and Path("shared.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_a_table_is_read_from_standard_input_or_a_pipe(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected, _ = table_of(f"{FIT} --csv -", capsys)
    os.mkfifo("pipe")
    thread = threading.Thread(target=lambda: name == "pipe" and Path("pipe").write_text(POINTS), daemon=True)
    thread.start()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POINTS.encode())))
    table, _ = table_of(f"fit prior.json {name} --by alloy --csv -", capsys)
    thread.join(10)
    pd.testing.assert_frame_equal(table, expected)


def test_errors_in_standard_input_name_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"alloy,time,fraction\nA,ten,0.1\n")))
    said = mistakes.refused(capsys, folder, "fit prior.json - --by alloy", ())
    assert said == "scimeta: standard input, row 2, column 'time': 'ten' is not a number\n"


def test_a_pipeline_of_processes_gets_the_table_and_what_head_leaves_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-c", "from scimeta.cli import main; raise SystemExit(main())"]
    fit = subprocess.Popen(
        [*command, *shlex.split("fit prior.json /dev/stdin --by alloy --csv /dev/stdout --plot fit.png")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    out, said = fit.communicate(POINTS, timeout=120)
    assert pd.read_csv(io.StringIO(out))["specimen"].tolist() == ["A61"] and fit.returncode == 0
    assert re.match(r"JMAK \| A61 \| 4 points(.|\n)*figure: fit.png\n$", said)
    Path("fit.png").unlink()
    gone = subprocess.Popen(
        [*command, *shlex.split(f"{FIT} --plot fit.png")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    gone.stdout.close()  # before a word is printed
    assert (gone.wait(120), gone.stderr.read()) == (0, "") and Path("fit.png").is_file()
    gone.stderr.close()

"""Every tutorial runs from its first line to its closing assertions, in the small size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scimeta

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted(ROOT.glob("tutorials/[0-9][0-9]_*.py"))
ALWAYS = {"01", "03", "06", "07", "08"}  # one of each domain; the others run with the slow tests
HANGS = 900  # seconds: fifteen times the minute that a tutorial may take, for machines that are busy


def marked(path: Path) -> Any:
    return pytest.param(path, marks=[] if path.name[:2] in ALWAYS else pytest.mark.slow)


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("tutorial", [marked(path) for path in TUTORIALS], ids=lambda path: path.stem)
def test_the_tutorial_holds_its_claims(tutorial: Path, tmp_path: Path) -> None:
    same_scimeta = str(Path(scimeta.__file__).resolve().parents[1])  # that of the other tests, installed or not
    environment = {
        **os.environ,
        "SCIMETA_SMOKE": "1",
        "MPLBACKEND": "Agg",
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, [same_scimeta, os.environ.get("PYTHONPATH")])),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", str(tutorial)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=HANGS,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert list(tmp_path.glob("scimeta-tutorial-*/*.png")), "the tutorial writes no figure into its temporary folder"
    assert not list(tmp_path.glob("*.png")), "figures belong into the tutorial's own folder"


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorial_is_cells_of_prose_and_code_that_ends_in_its_claims(tutorial: Path) -> None:
    text = tutorial.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    assert 'SMOKE = "SCIMETA_SMOKE" in os.environ' in text
    assert "assert " in text.split("# %%")[-1]
    assert "plt.show(" not in text


def run_all(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "run_all.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=HANGS)


def test_the_runner_says_of_each_tutorial_whether_its_claims_held(tmp_path: Path, monkeypatch) -> None:
    shutil.copy(ROOT / "tutorials" / "run_all.py", tmp_path)
    fine = "import os; assert (os.environ['SCIMETA_SEED'], os.environ.get('SCIMETA_SMOKE')) == ('3', None)"
    (tmp_path / "01_fine.py").write_text(fine, encoding="utf-8")
    (tmp_path / "02_wrong.py").write_text("assert 1 > 2, 'one is not above two'", encoding="utf-8")
    (tmp_path / "03_warns.py").write_text("import warnings; warnings.warn('loud')", encoding="utf-8")
    monkeypatch.setenv("SCIMETA_SMOKE", "1")
    done = run_all(tmp_path, "--seed", "3")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["01_fine", "02_wrong", "03_warns"]
    assert lines[0].endswith(" ok")
    assert lines[1].endswith("AssertionError: one is not above two") and lines[2].endswith("UserWarning: loud")
    assert lines[3] == "1 of 3 tutorials hold their claims" and done.returncode == 1
    done = run_all(tmp_path, "01", "--seed", "3")
    assert done.stdout.splitlines()[1:] == ["1 of 1 tutorials hold their claims"] and done.returncode == 0


def test_a_tutorial_that_is_not_there_is_named() -> None:
    done = run_all(ROOT / "tutorials", "99")
    assert done.returncode == 1 and "no tutorial is called 99; there are 01_calibrate_a_new_alloy" in done.stderr

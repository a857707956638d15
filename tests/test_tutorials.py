"""Every tutorial runs from its first line to its closing assertions, in the small size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import scimeta

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted(ROOT.glob("tutorials/*.py"))
HANGS = 240  # seconds: four times the minute that a tutorial may take, for machines that are busy


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
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

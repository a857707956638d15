"""The README's Python runs as it stands, beside the data that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)  # the user would paste them one after the other
    assert (tmp_path / "fit.png").stat().st_size > 10_000 and (tmp_path / "fits.csv").is_file()
    assert scope["fit"]["k"].lower < 0.0161 < scope["fit"]["k"].upper  # the truth in data/jmak_alloys_truth.csv


def test_one_line_of_the_readme_installs_and_tests() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("pip install") and "pytest" in line for line in lines) == 1

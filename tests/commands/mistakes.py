"""What every command owes a user who made a mistake: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest

from scimeta.cli import main


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, whole."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, line: str, python: Iterable[str]) -> str:
    """Return the one sentence that is said of a mistake, having seen that nothing was written or printed.

    ``python`` are names that mean nothing at the command line.
    """
    capsys.readouterr()
    before = contents(folder)
    assert main(shlex.split(line)) == 2
    assert contents(folder) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("scimeta: ")
    assert said.err.count("\n") == 1
    for name in ("Traceback", *python):
        assert name not in said.err
    return said.err

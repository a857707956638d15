"""What the tests of the core watch, and how they start another Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scimeta
from scimeta.core import recording


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one name at each recording that is made."""
    made: list[str] = []
    make = recording._replay

    def counting(function: Callable[..., Any], args: tuple, how: str) -> Callable[..., Any]:
        made.append(function.__name__)
        return make(function, args, how)

    monkeypatch.setattr(recording, "_replay", counting)
    return made


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """A function: (arguments of a new Python, which starts in tmp_path) -> what it printed."""
    source = str(Path(scimeta.__file__).resolve().parents[1])

    def run(*arguments: str | Path, timeout: float = 180.0) -> str:
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run

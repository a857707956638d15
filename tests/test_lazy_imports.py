"""The package and its command start at once: what takes seconds to import waits until it is needed."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import scimeta
from scimeta.cli import LAWS
from scimeta.domains import kinetics

HEAVY = ("torch", "scipy", "pandas", "sklearn", "matplotlib")
HELP = "from scimeta.cli import main\ntry: main({!r}.split())\nexcept SystemExit as ended: assert not ended.code"


def run(script: str) -> str:
    """Return what a script prints in a process of its own, where every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        "import scimeta",
        "import scimeta.core, scimeta.calibration, scimeta.models, scimeta.domains",
        "import scimeta; dir(scimeta); scimeta.__all__; help",
        *map(
            HELP.format,
            ("--help", "learn --help", "fit --help", "next --help", "arm --help", "arm train --help", "city --help"),
        ),
    ],
)
def test_starting_imports_nothing_heavy(script: str) -> None:
    said = run(f"{script}\nimport sys; print('loaded', [name for name in {HEAVY} if name in sys.modules])")
    assert said.splitlines()[-1] == "loaded []"


def test_every_name_comes_when_it_is_asked_for() -> None:
    said = run(
        "import scimeta\nfor name in scimeta.__all__: getattr(scimeta, name)\n"
        "assert scimeta.Calibrator is scimeta.calibration.fits.Calibrator\n"
        "assert scimeta.meta_train is scimeta.core.train.meta_train\n"
        "assert scimeta.functional is scimeta.models.functional.functional\n"
        "from scimeta import *\nprint(laws.__name__, Curve.__module__, datasets.__name__)"
    )
    assert said == "scimeta.laws scimeta.calibration.data.curves scimeta.datasets\n"


def test_the_stub_that_type_checkers_read_has_the_same_names() -> None:
    stub = ast.parse(Path(scimeta.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    (listed,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(listed) == sorted(scimeta.__all__)
    assert set(dir(scimeta)) == {*listed, "calibration", "core", "files", "models"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Calibratr"):
        scimeta.Calibratr  # noqa: B018


def test_classes_are_pickled_by_where_they_are() -> None:
    assert pickle.loads(pickle.dumps(scimeta.Axis("time", "s"))) == scimeta.Axis("time", "s")
    assert pickle.loads(pickle.dumps(scimeta.Calibrator)) is scimeta.Calibrator


def test_the_laws_that_the_command_names_are_those_of_kinetics() -> None:
    laws = {name.lower().replace("_", "-") for name, law in vars(kinetics).items() if isinstance(law, scimeta.Law)}
    assert set(LAWS) == laws

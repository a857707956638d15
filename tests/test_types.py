"""The packages say that they have types; pyright finds them right but in the files that are listed, ever fewer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]
EXCEPTIONS = 64  # so many files are listed: lower it with each that is mended, never raise it


@pytest.mark.parametrize("package", ["scimeta", "simulators"])
def test_the_package_says_that_it_has_types(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_the_list_of_files_whose_types_are_wrong_only_shrinks() -> None:
    listed = CONFIGURATION["ignore"]
    assert len(listed) == EXCEPTIONS
    assert listed == sorted(set(listed))
    for name in listed:  # no folder, no pattern
        assert name.endswith(".py") and (ROOT / name).is_file(), name


def test_no_other_file_is_kept_from_pyright() -> None:
    assert CONFIGURATION.keys() == {"include", "pythonVersion", "ignore"}  # no rule is switched off for all
    assert CONFIGURATION["include"] == ["scimeta", "simulators"]
    for path in [*ROOT.glob("scimeta/**/*.py"), *ROOT.glob("simulators/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        found = re.search(r"# *type: *ignore|# *pyright:(?! *ignore\[)", text)  # one line and one rule at a time
        assert not found, f"{path}: {found.group()}"


@pytest.mark.slow
def test_every_listed_file_still_fails_and_no_other_does(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    # An absolute folder would find nothing.
    include = [os.path.relpath(ROOT / name, tmp_path) for name in CONFIGURATION["include"]]
    configuration = {**CONFIGURATION, "include": include, "extraPaths": [str(ROOT)], "ignore": []}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(configuration), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=900)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] > 100
    errors = [found for found in report["generalDiagnostics"] if found["severity"] == "error"]
    failing = {Path(found["file"]).resolve().relative_to(ROOT).as_posix() for found in errors}
    assert sorted(failing) == CONFIGURATION["ignore"]

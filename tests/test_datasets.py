from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scimeta import datasets
from scimeta.calibration.data.axis import Axis

DATA = datasets.path("jmak_alloys").parent
README = (DATA / "README.md").read_text(encoding="utf-8")
SIMULATED = ("jmak_alloys", "jmak_new_alloy", "jmak_new_alloy_rest", "jmak_alloys_truth")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("regenerated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], {})
    return folder


@pytest.mark.parametrize("name", SIMULATED)
def test_the_code_in_the_readme_makes_the_simulated_files(regenerated, name):
    shipped, made = pd.read_csv(datasets.path(name)), pd.read_csv(regenerated / f"{name}.csv")
    pd.testing.assert_frame_equal(shipped, made, rtol=0, atol=1.1e-4)  # one unit of the last digit of a fraction


@pytest.mark.parametrize("table", sorted(DATA.glob("*.csv")), ids=lambda path: path.stem)
def test_the_readme_tells_the_rows_and_columns_of_every_file(table):
    frame = pd.read_csv(table)
    section = README[README.index(f"`{table.name}`") :]
    assert f"| {len(frame)} " in section
    for column in frame.columns:
        assert f"`{column}`" in README
    assert table.read_bytes().isascii()
    assert b"\r" not in table.read_bytes()


def test_past_alloys_scatter_about_their_true_curves_by_the_noise():
    curves, truth = datasets.alloys(), datasets.alloys_truth()
    assert (curves.x, curves.y) == (Axis("time", "s"), Axis("fraction", ""))
    assert set(truth) == {*curves.names, "A61"}
    misses = np.concatenate([c.y + np.expm1(-((truth[c.name]["k"] * c.x) ** truth[c.name]["n"])) for c in curves])
    assert abs(misses.std() - 0.02) < 4 * 0.02 / np.sqrt(2 * len(misses))
    assert abs(misses.mean()) < 4 * 0.02 / np.sqrt(len(misses))


def test_past_alloys_come_from_the_family_that_the_readme_states():
    truth = datasets.alloys_truth()
    theta = np.array([[np.log(v["k"]), v["n"]] for v in truth.values()])
    deviation = np.array([0.4, 0.5])
    assert (np.abs(theta.mean(0) - [np.log(0.01), 2.5]) < 4 * deviation / np.sqrt(len(theta))).all()
    assert (np.abs(theta.std(0) / deviation - 1) < 4 / np.sqrt(2 * len(theta))).all()


def test_the_new_alloy_has_four_early_points_and_the_rest_follows():
    new, rest = datasets.new_alloy(), datasets.new_alloy_rest()
    assert new.names == rest.names == ("A61",)
    assert (len(new[0]), len(rest[0])) == (4, 16)
    assert new[0].x[-1] < rest[0].x[0]
    assert new[0].y.max() < 0.5 < rest[0].y.max()
    assert new[0].name not in datasets.alloys().names


def test_bainite_curves_are_incomplete_and_carry_their_conditions():
    curves = datasets.bainite()
    assert [len(curve) for curve in curves] == [100, 100]
    assert [curve.conditions for curve in curves] == [
        {"grain [um]": 10.0, "temperature [degC]": 400.0},
        {"grain [um]": 15.0, "temperature [degC]": 400.0},
    ]
    np.testing.assert_allclose([curve.y[-1] for curve in curves], [0.665, 0.698], atol=1e-3)
    assert all((curve.x <= 50).sum() >= 25 for curve in curves)


def test_theophylline_is_a_study_of_twelve_subjects_with_their_doses():
    curves = datasets.theophylline()
    assert len(curves) == 12 and all(len(curve) == 11 and curve.x[0] == 0 for curve in curves)
    assert (curves.x, curves.y) == (Axis("time", "h"), Axis("concentration", "mg/L"))
    # Larger bodies were given less by the kg: about 320 mg each.
    doses = [curve.conditions["dose [mg/kg]"] * curve.conditions["weight [kg]"] for curve in curves]
    assert min(doses) > 265 and max(doses) < 325
    assert max(curve.y.max() for curve in curves) == 11.4  # subject 5, after an hour


def test_the_notice_that_the_bainite_licence_asks_for_is_there():
    assert "Copyright (c) 2023 DanielDosSantosAvila" in README
    assert "The above copyright notice and this permission notice shall be included" in README
    assert "8dd5883865a7acd1c568853b1a9d066f81caa739" in README


def test_an_unknown_table_is_answered_with_the_list():
    assert datasets.path("jmak_new_alloy.csv") == datasets.path("jmak_new_alloy")
    with pytest.raises(ValueError, match="Unknown table 'iris'; there are bainite_dilatometry, hydride_absorption, "):
        datasets.path("iris")


def test_tables_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "jmak_alloys.csv").write_bytes(datasets.path("jmak_alloys").read_bytes())
    monkeypatch.setattr(datasets, "_FOLDERS", (tmp_path / "absent", tmp_path))
    assert datasets.path("jmak_alloys") == tmp_path / "jmak_alloys.csv"
    monkeypatch.setattr(datasets, "_FOLDERS", (tmp_path / "absent",))
    with pytest.raises(FileNotFoundError, match="install the package again"):
        datasets.path("jmak_alloys")

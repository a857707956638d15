"""robot.yaml and the tables of rows: how they may be written, and what is wrong named with its row and column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scimeta.domains.arm.log import Log
from scimeta.domains.arm.recordings import read_trials, write_trials
from tests.domains.arm.recorded import JOINTS, LOGS, change, describe, in_every_log, in_order, put, same, scaled


def test_degrees_are_converted_where_robot_yaml_says_so(folder):
    in_every_log(folder, scaled(180 / np.pi, "q", "qd", "qdd"))
    describe(folder, angle="deg")
    same(read_trials(folder).logs[0], LOGS[0])


def test_columns_in_another_order_are_sorted_where_robot_yaml_lists_the_joints(folder):
    order = [7, 1, 2, 3, 6, 5, 4]
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    describe(folder, joints=[JOINTS[i - 1] for i in order])
    same(read_trials(folder).logs[2], LOGS[2])


def test_torques_are_turned_where_robot_yaml_says_so_in_the_order_of_the_columns(folder):
    order = [7, 1, 2, 3, 6, 5, 4]
    in_every_log(folder, lambda table: table.assign(tau3=-table["tau3"]))
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    describe(folder, joints=[JOINTS[i - 1] for i in order], torque_sign=[1, 1, 1, -1, 1, 1, 1])
    same(read_trials(folder).logs[0], LOGS[0])


def test_semicolons_and_decimal_commas_are_read(folder):
    table = pd.read_csv(folder / "trial_2.csv")
    table.to_csv(folder / "trial_2.csv", sep=";", decimal=",", index=False)
    same(read_trials(folder).logs[1], LOGS[1])


def test_an_arm_of_one_sliding_joint_is_not_converted_from_degrees(tmp_path):
    text = """<robot name="lift"><link name="base"/><link name="car"><inertial><mass value="2"/>
      <inertia ixx=".1" ixy="0" ixz="0" iyy=".1" iyz="0" izz=".1"/></inertial></link>
      <joint name="up" type="prismatic"><parent link="base"/><child link="car"/><axis xyz="0 0 1"/>
      <limit lower="-1" upper="1" effort="100" velocity="1"/></joint></robot>"""
    (tmp_path / "lift.urdf").write_text(text)
    t = torch.arange(0, 2, 0.05).double()
    q = (0.5 * torch.sin(3 * t))[:, None]
    log = Log(t, q, (1.5 * torch.cos(3 * t))[:, None], -9 * q, 2 * (9.81 - 9 * q))
    folder = write_trials(tmp_path / "arm", tmp_path / "lift.urdf", [log])
    describe(folder, angle="deg")
    same(read_trials(folder).logs[0], log)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put(15, "tau2", None), r"trial_2.csv, row 17, column 'tau2': the value is missing; .*\(1 such cells\)"),
        (put(15, "q3", "abc"), r"trial_2.csv, row 17, column 'q3': 'abc' is not a finite number"),
        (put(0, "qdd7", np.inf), r"trial_2.csv, row 2, column 'qdd7': 'inf' is not a finite number"),
        (put(50, "t", 0.1), r"trial_2.csv, row 52, column 't': time runs back, from 1\.\d+ to 0\.1 s"),
        (lambda t: t.assign(t=t["t"].where(t.index != 51, t["t"][50])), r"row 53, column 't': time stands still"),
        (lambda t: t.assign(tau4=0.0), r"column 'tau4': the torque of joint 'lbr_iiwa_joint_4' is zero throughout"),
        (lambda t: t.drop(columns=["q7"]), r"the arm has 7 joints .* q1 to q7 are expected; there are q1, .* q6\. Add"),
        (lambda t: t.drop(columns=["qd2"]), r"qd1 to qd7 are expected; there are qd1, qd3"),
        (lambda t: t.assign(q8=0.0), "there are q1, .* q8"),
        (lambda t: t.drop(columns=[f"qd{i}" for i in range(1, 8)]), "accelerations qdd but no velocities"),
        (lambda t: t.rename(columns={"t": "time"}), "there is no column 't'; expected t, q1"),
        (lambda t: t[:1], "there are 1 rows of numbers"),
        (scaled(180 / np.pi, "q"), r"velocities and positions of joint .* qd is 0\.017\d* .* rad/s beside degrees"),
        (scaled(180 / np.pi, "qd"), r"qd is 5[67]\.\d times q's change; degrees/s beside rad"),
        (scaled(180 / np.pi, "q", "qd", "qdd"), r"trial_2.csv, row \d+: joint .* these are degrees: write angle: deg"),
        (scaled(1000.0, "t"), "t in ms"),
        (scaled(-1.0, "qd"), "qd has the sign opposite to q's change"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_named_with_row_and_column(folder, edit, said):
    change(folder / "trial_2.csv", edit)
    with pytest.raises(ValueError, match=said) as error:
        read_trials(folder)
    assert str(error.value).startswith("trial_2.csv")


def test_rows_are_counted_as_in_the_file_past_blank_ones(folder):
    path = folder / "trial_1.csv"
    lines = path.read_text().splitlines()
    lines.insert(5, "")
    lines[20] = lines[20].replace(",", ",x", 1)
    path.write_text("\n".join(lines) + "\n\n")
    with pytest.raises(ValueError, match=r"trial_1\.csv, row 21, column 'q1': 'x"):
        read_trials(folder)


@pytest.mark.parametrize("row", [1, 4])
def test_a_row_with_too_many_cells_is_refused(folder, row):
    path = folder / "trial_1.csv"
    lines = path.read_text().splitlines()
    lines[row] += ",1"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"trial_1.csv: .*(row|line) {row + 1}\b"):
        read_trials(folder)


def test_an_empty_table_is_refused(folder):
    (folder / "trial_1.csv").write_text("")
    with pytest.raises(ValueError, match=r"trial_1\.csv: the first row is blank"):
        read_trials(folder)


def test_a_gap_is_an_error_where_derivatives_must_cross_it_and_a_warning_elsewhere(folder):
    change(folder / "trial_3.csv", lambda table: table.drop(index=range(40, 50)))
    with pytest.warns(UserWarning, match=r"trial_3.csv, row 42, column 't': a gap of 0.44 s .* 0.04 s apart; rows are"):
        read_trials(folder)
    change(folder / "trial_3.csv", lambda table: table[[c for c in table if not c.startswith("qd")]])
    with pytest.raises(ValueError, match="no derivatives can be taken across it"):
        read_trials(folder)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"angle": "grad"}, "robot.yaml: angle is rad or deg; got 'grad'"),
        ({"torque_sign": [1, -1]}, "robot.yaml: torque_sign is 1 or -1, or a list of 7"),
        ({"torque_sign": 2}, "robot.yaml: torque_sign"),
        ({"joints": JOINTS[:6]}, "robot.yaml: joints must list lbr_iiwa_joint_1, .*7, in the order of the columns"),
        ({"sample_rate": "fast"}, "robot.yaml: sample_rate is a number"),
        ({"sample_rate": 1000}, "trial_1.csv, column 't': 25 rows a second, robot.yaml says sample_rate: 1000"),
        ({"torque_sgn": 1}, "robot.yaml: there is no key 'torque_sgn'; did you mean 'torque_sign'"),
        ({"colour": "red"}, "robot.yaml: there is no key 'colour'; known are urdf, tip"),
        ({"urdf": 3}, "robot.yaml: urdf must be a path"),
        ({"tip": "hand"}, "has no link 'hand'"),
        ({"tip": "lbr_iiwa_link_5"}, r"the arm has 5 joints .*; there are q1, .* q7"),
    ],
)
def test_a_robot_yaml_that_is_wrong_is_named_with_its_key(folder, keys, said):
    describe(folder, **keys)
    with pytest.raises(ValueError, match=said):
        read_trials(folder)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "urdf: [", "angle: rad\n"])
def test_a_robot_yaml_that_is_no_description_is_refused(folder, text):
    (folder / "robot.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"robot\.yaml(: expected at least 'urdf: file'| is not YAML)"):
        read_trials(folder)

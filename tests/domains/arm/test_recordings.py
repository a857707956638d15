"""Recordings of the user's own arm: what is read is what was written, and what is wrong is named where it stands."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from scimeta.domains.arm.derivatives import Filter, differentiated
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.recordings import Trials, read_trials, resample, write_trials
from simulators.arm import draw_movement, draw_payloads, nominal, scenario, simulate, urdf

JOINTS = [f"lbr_iiwa_joint_{i}" for i in range(1, 8)]
MOVEMENT = draw_movement(nominal("iiwa").chain, np.random.default_rng(5))


def simulated(count: int = 3, samples: int = 100, seed: int = 0) -> tuple[Log, torch.Tensor, torch.Tensor]:
    """Logs of an iiwa with errors and friction, the masses and the centres of mass of what it held."""
    rng = np.random.default_rng(seed)
    robot = scenario("S1", rng)
    movements = [draw_movement(robot.chain, rng) for _ in range(count)]
    trials = simulate(robot, draw_payloads(count, rng), movements, samples, seed=seed)
    log = Log(*map(torch.as_tensor, (trials.t, trials.q, trials.qd, trials.qdd, trials.tau)))
    return log, torch.as_tensor(trials.mass), torch.as_tensor(trials.com)


LOG, MASS, COM = simulated()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_trials(tmp_path / "arm", urdf("iiwa"), LOG, mass=MASS, com=COM)


def change(path: Path, edit: Callable[[pd.DataFrame], object]) -> None:
    """Rewrite a table after an edit in place, or one that returns another table."""
    table = pd.read_csv(path)
    edited = edit(table)
    (table if edited is None else edited).to_csv(path, index=False)


def describe(folder: Path, **keys: object) -> None:
    """Add keys to robot.yaml."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def put(row: int, column: str, value: object) -> Callable[[pd.DataFrame], None]:
    def edit(table: pd.DataFrame) -> None:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value

    return edit


def scaled(factor: float, *kinds: str) -> Callable[[pd.DataFrame], None]:
    def edit(table: pd.DataFrame) -> None:
        columns = [column for column in table if column.rstrip("0123456789") in kinds]
        table[columns] *= factor

    return edit


def in_order(order: list[int], *kinds: str) -> Callable[[pd.DataFrame], None]:
    """Columns 1, 2, ... of these kinds become those of the joints named, counted from 1."""

    def edit(table: pd.DataFrame) -> None:
        for kind in kinds:
            table[[f"{kind}{i}" for i in range(1, 8)]] = table[[f"{kind}{i}" for i in order]].to_numpy()

    return edit


def in_every_log(folder: Path, edit: Callable[[pd.DataFrame], object]) -> None:
    for number in (1, 2, 3):
        change(folder / f"trial_{number}.csv", edit)


def same(a: Log, b: Log) -> None:
    for name, one, other in zip(Log._fields, a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)


# --- reading and writing


def test_what_is_written_is_read_back(folder):
    trials = read_trials(folder)
    assert trials.names == ("trial_1", "trial_2", "trial_3")
    assert trials.arm.joints == tuple(JOINTS)
    for log, parts in zip(trials.logs, zip(*LOG, strict=True), strict=True):
        same(log, Log(*parts))
    torch.testing.assert_close(trials.mass, MASS)
    torch.testing.assert_close(trials.com, COM)
    assert trials.split == ("train",) * 3
    assert trials.tares == (None,) * 3


def test_trials_of_unequal_length_become_one_batch_of_rows_as_they_were_recorded(tmp_path):
    logs = [Log(*(x[i, : 100 - 30 * i] for x in LOG)) for i in range(3)]
    trials = read_trials(write_trials(tmp_path / "arm", urdf("iiwa"), logs))
    batch = resample(trials.logs, 20)
    assert batch.t.shape == (3, 20)
    assert batch.tau.shape == (3, 20, 7)
    for log, t, tau in zip(logs, batch.t, batch.tau, strict=True):
        rows = torch.searchsorted(log.t, t - 1e-6)
        torch.testing.assert_close(log.tau[rows], tau, rtol=1e-9, atol=1e-9)
        ideal = log.t[0] + (torch.arange(20) + 0.5) / 20 * (log.t[-1] - log.t[0])
        assert (t - ideal).abs().max() <= 0.5 * log.t.diff().max() + 1e-9


def test_all_rows_are_asked_for_and_all_come():
    log = Log(*(x[0] for x in LOG))
    same(Log(*(x[0] for x in resample([log], 100))), log)


@pytest.mark.parametrize(("logs", "samples"), [([], 3), ([Log(*(x[0] for x in LOG)), None], 3), ([LOG], 0)])
def test_resample_refuses_what_it_cannot_batch(logs, samples):
    with pytest.raises(ValueError, match="resample: "):
        resample(logs, samples)


def test_a_log_is_not_stretched_beyond_its_rows():
    with pytest.raises(ValueError, match=r"log 0 \(the first is 0\) has 100 rows; 101 samples"):
        resample([Log(*(x[0] for x in LOG))], 101)


def test_blanks_are_what_nobody_knows(folder):
    change(folder / "trials.csv", lambda table: table.drop(columns=["com_x", "com_y", "com_z", "split", "tare"]))
    change(folder / "trials.csv", put(1, "mass", None))
    trials = read_trials(folder)
    assert trials.mass.isnan().tolist() == [False, True, False]
    assert trials.com.isnan().all()
    assert trials.split == ("train",) * 3


def test_a_split_is_taken_by_its_name_with_all_that_belongs_to_it(folder):
    change(folder / "trials.csv", lambda table: table.assign(split=["train", "test", ""]))
    trials = read_trials(folder)
    test = trials.of("test")
    assert isinstance(test, Trials)
    assert (test.names, test.split, len(test)) == (("trial_2",), ("test",), 1)
    torch.testing.assert_close(test.mass, MASS[1:2])
    same(test.logs[0], trials.logs[1])
    assert trials.of("train").names == ("trial_1", "trial_3")
    with pytest.raises(ValueError, match="no trial is for 'tset'; there are test, train"):
        trials.of("tset")


def test_the_table_of_trials_says_what_there_is(folder):
    said = str(read_trials(folder))
    assert "3 trials (3 train) of 7 joints to lbr_iiwa_link_7" in said
    assert "100 to 100 samples" in said
    assert "3 known" in said


def test_a_tare_is_read_with_its_trial_and_may_serve_several(tmp_path):
    empty = simulate(nominal("iiwa"), [None], MOVEMENT, 100, seed=1)
    held = simulate(nominal("iiwa"), draw_payloads(2, np.random.default_rng(0)), MOVEMENT, 100, seed=1)
    tare = Log(*(torch.as_tensor(x[0]) for x in (empty.t, empty.q, empty.qd, empty.qdd, empty.tau)))
    loaded = Log(*map(torch.as_tensor, (held.t, held.q, held.qd, held.qdd, held.tau)))
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), loaded, tares=[tare, None])
    trials = read_trials(folder)
    same(trials.tares[0], tare)
    assert trials.tares[1] is None
    change(folder / "trials.csv", lambda table: table.assign(tare="trial_1_tare.csv"))
    both = read_trials(folder).tares
    assert both[0] is both[1]
    same(both[1], tare)


def test_a_tare_of_another_movement_is_suspected(tmp_path):
    logs = [Log(*(x[i] for x in LOG)) for i in range(2)]
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), logs[:1], tares=logs[1:])
    with pytest.warns(UserWarning, match=r"trial_1.csv: its tare trial_1_tare.csv is of another movement"):
        read_trials(folder)


def test_degrees_are_converted_where_robot_yaml_says_so(folder):
    in_every_log(folder, scaled(180 / np.pi, "q", "qd", "qdd"))
    describe(folder, angle="deg")
    same(read_trials(folder).logs[0], Log(*(x[0] for x in LOG)))


def test_columns_in_another_order_are_sorted_where_robot_yaml_lists_the_joints(folder):
    order = [7, 1, 2, 3, 6, 5, 4]
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    describe(folder, joints=[JOINTS[i - 1] for i in order])
    same(read_trials(folder).logs[2], Log(*(x[2] for x in LOG)))


def test_torques_are_turned_where_robot_yaml_says_so_in_the_order_of_the_columns(folder):
    order = [7, 1, 2, 3, 6, 5, 4]
    in_every_log(folder, lambda table: table.assign(tau3=-table["tau3"]))
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    describe(folder, joints=[JOINTS[i - 1] for i in order], torque_sign=[1, 1, 1, -1, 1, 1, 1])
    same(read_trials(folder).logs[0], Log(*(x[0] for x in LOG)))


def test_semicolons_and_decimal_commas_are_read(folder):
    table = pd.read_csv(folder / "trial_2.csv")
    table.to_csv(folder / "trial_2.csv", sep=";", decimal=",", index=False)
    same(read_trials(folder).logs[1], Log(*(x[1] for x in LOG)))


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


# --- derivatives


@pytest.mark.parametrize("rate", [100, 1000])
def test_derivatives_of_a_noisy_movement_are_close_to_the_true_ones(rate):
    rng = np.random.default_rng(0)
    t = np.arange(0, 4, 1 / rate)
    q = MOVEMENT.at(t)[0] + 2e-5 * rng.standard_normal((len(t), 7))
    kept, *motion, tau = differentiated(t, q, q, None, Filter())
    for found, true, most in zip(motion, MOVEMENT.at(kept), (2e-5, 5e-4, 0.02), strict=True):
        assert np.sqrt(((found - true) ** 2).mean()) < most
    assert len(kept) == len(t) - 2 * round(0.1 * rate)
    np.testing.assert_array_equal(tau, q[round(0.1 * rate) : -round(0.1 * rate)])


def test_accelerations_from_recorded_velocities_are_closer_still():
    rng = np.random.default_rng(0)
    t = np.arange(0, 4, 0.01)
    q, qd, _ = MOVEMENT.at(t)
    qd = qd + 1e-4 * rng.standard_normal(qd.shape)
    kept, _, same_qd, qdd, _ = differentiated(t, q, q, qd, Filter())
    np.testing.assert_array_equal(same_qd, qd[10:-10])
    assert np.sqrt(((qdd - MOVEMENT.at(kept)[2]) ** 2).mean()) < 0.01


def test_times_that_jitter_are_made_even_first():
    t = np.arange(0, 4, 0.002)
    t = t + np.random.default_rng(0).uniform(-6e-4, 6e-4, len(t))
    q = MOVEMENT.at(t)[0]
    kept, *motion, tau = differentiated(t, q, q, None, Filter())
    np.testing.assert_allclose(np.diff(kept), np.diff(kept)[0], rtol=1e-9)
    for found, true, most in zip(motion, MOVEMENT.at(kept), (1e-5, 2e-4, 5e-3), strict=True):
        assert np.abs(found - true).max() < 5 * most
    np.testing.assert_allclose(tau, MOVEMENT.at(kept)[0], atol=1e-5)


def test_a_polynomial_of_the_filters_degree_is_differentiated_exactly():
    t = np.arange(0, 1, 0.01)
    q = np.stack((t**4, 1 - t**3), 1)
    kept, smooth, qd, qdd, _ = differentiated(t, q, q, None, Filter(window=0.1, degree=4))
    np.testing.assert_allclose(smooth, np.stack((kept**4, 1 - kept**3), 1), atol=1e-9)
    np.testing.assert_allclose(qd, np.stack((4 * kept**3, -3 * kept**2), 1), atol=1e-7)
    np.testing.assert_allclose(qdd, np.stack((12 * kept**2, -6 * kept), 1), atol=1e-5)


def test_a_recording_of_positions_and_torques_alone_is_read(tmp_path):
    t = torch.arange(0, 4, 0.005).double()
    q, qd, qdd = map(torch.as_tensor, MOVEMENT.at(t.numpy()))
    tau = torch.as_tensor(nominal("iiwa").torque(q.numpy(), qd.numpy(), qdd.numpy()))
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), [Log(t, q, qd, qdd, tau)], derivatives=False)
    assert list(pd.read_csv(folder / "trial_1.csv").columns) == [
        "t",
        *(f"{x}{i}" for x in ("q", "tau") for i in range(1, 8)),
    ]
    describe(folder, filter={"window": 0.1, "degree": 4}, sample_rate=200)
    log = read_trials(folder).logs[0]
    assert len(log.t) == 800 - 20
    torch.testing.assert_close(log.qdd, qdd[10:-10], rtol=0, atol=2e-3)
    torch.testing.assert_close(log.tau, tau[10:-10])


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"window": 0.0}, "robot.yaml: filter: window is a time in s"),
        ({"degree": 1}, "robot.yaml: filter: degree is a whole number, 2 or more"),
        ({"windows": 0.1}, "robot.yaml: there is no key of filter 'windows'; did you mean 'window'"),
        ({"window": "wide"}, "robot.yaml: filter is {window: seconds, degree: number}"),
        ({"window": 0.1}, r"trial_1.csv: the filter's window of 0.1 s holds 3 rows, too few .* filter: {window: 0.28}"),
        ({"window": 3.0}, r"trial_1.csv: there are 100 rows, two windows of the filter"),
    ],
)
def test_a_filter_that_cannot_work_is_refused(folder, filters, said):
    in_every_log(folder, lambda table: table[[c for c in table if not c.startswith("qd")]])
    describe(folder, filter=filters)
    with pytest.raises(ValueError, match=said):
        read_trials(folder)


# --- what is wrong in a table


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


def test_positions_a_little_past_the_limits_are_a_warning(folder):
    change(folder / "trial_1.csv", lambda table: table.assign(q1=table["q1"] - table["q1"].max() + 3.3))
    with pytest.warns(UserWarning, match=r"'lbr_iiwa_joint_1' stands at 3.3, past its limits \[-2.97, 2.97\]"):
        read_trials(folder)


# --- what all trials together say


def test_joints_whose_torques_have_the_wrong_sign_are_named(folder):
    in_every_log(folder, lambda table: table.assign(tau2=-table["tau2"], tau4=-table["tau4"]))
    with pytest.raises(ValueError, match=r"torques of lbr_iiwa_joint_2, lbr_iiwa_joint_4 are opposite .*torque_sign"):
        read_trials(folder)


def test_a_sign_that_is_stated_is_believed_with_a_warning(folder):
    describe(folder, torque_sign=-1)
    with pytest.warns(UserWarning, match=r"opposite to what the URDF asks for .*robot.yaml states it, so it stands"):
        trials = read_trials(folder)
    torch.testing.assert_close(trials.logs[0].tau, -LOG.tau[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [[1, 3, 2, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]], ids=["two swapped", "from the tip"])
def test_joints_in_another_order_are_named(folder, order):
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*past its limits")
        with pytest.raises(ValueError, match=r"do not fit the URDF .* positions and torques .* write joints: \[lbr"):
            read_trials(folder)


def test_torques_in_another_order_than_positions_are_named(folder):
    in_every_log(folder, in_order([1, 3, 2, 4, 5, 6, 7], "tau"))
    with pytest.raises(ValueError, match=r"if the torques in columns 1 to 7 were those of \w*1, \w*3, \w*2, "):
        read_trials(folder)


def test_torques_of_another_arm_are_suspected(folder):
    rng = np.random.default_rng(0)
    in_every_log(folder, lambda t: t.assign(**{f"tau{i}": 20 * rng.standard_normal(len(t)) for i in range(1, 8)}))
    with pytest.warns(UserWarning, match="do not fit the URDF .* is it this arm's"):
        read_trials(folder)


def test_radians_where_robot_yaml_says_degrees_are_suspected(folder):
    describe(folder, angle="deg")
    with pytest.warns(UserWarning) as said:
        read_trials(folder)
    assert any("are these radians?" in str(warning.message) for warning in said)


@pytest.mark.parametrize("name", ["S1", "S3"])
def test_friction_link_errors_and_unknown_payloads_raise_no_suspicion(tmp_path, name):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        robot = scenario(name, rng)
        loads = draw_payloads(1, rng, mass=(0, 8))
        one = simulate(robot, loads, [draw_movement(robot.chain, rng)], 20, seed=seed)
        log = Log(*map(torch.as_tensor, (one.t, one.q, one.qd, one.qdd, one.tau)))
        assert len(read_trials(write_trials(tmp_path / str(seed), urdf("iiwa"), log))) == 1


# --- robot.yaml and trials.csv


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


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put(1, "mass", "heavy"), "trials.csv, row 3, column 'mass': 'heavy' is not a number; leave it blank"),
        (put(1, "mass", -1.0), "trials.csv, row 3, column 'mass': -1 kg is negative"),
        (put(2, "com_y", None), "trials.csv, row 4, column 'com_y': the value is missing; give com_x"),
        (put(0, "com_z", 80.0), "trials.csv, row 2, column 'com_z': 80 m from the tip .* in mm"),
        (put(2, "trial", "trial_1"), "trials.csv, row 4, column 'trial': 'trial_1' is there twice"),
        (put(2, "trial", None), "trials.csv, row 4, column 'trial': the name is blank"),
        (lambda t: t.rename(columns={"mass": "Mass [kg]"}), r"no column 'Mass \[kg\]'; did you mean 'mass'"),
        (lambda t: t.drop(columns="trial"), "trials.csv: expected a column 'trial'"),
        (lambda t: t[:0], "trials.csv: expected a column 'trial' and a row"),
    ],
)
def test_a_table_of_trials_that_is_wrong_is_named_with_row_and_column(folder, edit, said):
    change(folder / "trials.csv", edit)
    with pytest.raises(ValueError, match=said):
        read_trials(folder)


def test_columns_of_notes_are_left_alone(folder):
    change(folder / "trials.csv", lambda table: table.assign(operator="Ann"))
    assert len(read_trials(folder)) == 3


def test_missing_files_are_named_all_at_once(folder, tmp_path):
    for number in (1, 3):
        (folder / f"trial_{number}.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 2 files .*: trial_1\.csv, trial_3\.csv"):
        read_trials(folder)
    (folder / "iiwa.urdf").unlink()
    with pytest.raises(FileNotFoundError, match=r"iiwa\.urdf"):
        read_trials(folder)
    with pytest.raises(FileNotFoundError, match=r"no robot\.yaml and no trials\.csv"):
        read_trials(tmp_path)


def test_recordings_are_not_overwritten(folder):
    with pytest.raises(FileExistsError, match="holds recordings; choose another folder"):
        write_trials(folder, urdf("iiwa"), LOG)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mass": [1.0]}, r"mass must be \(3,\), got \(1,\)"),
        ({"com": torch.zeros(3)}, r"com must be \(3, 3\), got \(3,\)"),
        ({"names": ["a", "b"]}, "names .* 3"),
        ({"names": ["a", "b", "a"]}, "names"),
        ({"split": ["train"]}, "split .* 3"),
        ({"tares": [None]}, "tares .* 3"),
        ({"tip": "lbr_iiwa_link_5"}, "the arm has 5 joints, the log 7"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        write_trials(tmp_path / "arm", urdf("iiwa"), LOG, **arguments)
    assert not (tmp_path / "arm").exists()

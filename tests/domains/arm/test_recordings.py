"""Recordings of the user's own arm: what is read is what was written, and what is wrong is named where it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains.arm.log import Log
from scimeta.domains.arm.recordings import Trials, read_trials, resample, write_trials
from simulators.arm import draw_payloads, nominal, simulate, urdf
from tests.domains.arm.recorded import COM, JOINTS, LOG, LOGS, MASS, MOVEMENT, as_log, change, put, same


def test_what_is_written_is_read_back(folder):
    trials = read_trials(folder)
    assert trials.names == ("trial_1", "trial_2", "trial_3")
    assert trials.arm.joints == tuple(JOINTS)
    for log, written in zip(trials.logs, LOGS, strict=True):
        same(log, written)
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
    same(Log(*(x[0] for x in resample(LOGS[:1], 100))), LOGS[0])


@pytest.mark.parametrize(("logs", "samples"), [([], 3), ([LOGS[0], None], 3), ([LOG], 0)])
def test_resample_refuses_what_it_cannot_batch(logs, samples):
    with pytest.raises(ValueError, match="resample: "):
        resample(logs, samples)


def test_a_log_is_not_stretched_beyond_its_rows():
    with pytest.raises(ValueError, match=r"log 0 \(the first is 0\) has 100 rows; 101 samples"):
        resample(LOGS[:1], 101)


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
    tare = Log(*(x[0] for x in as_log(empty)))
    loaded = as_log(held)
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), loaded, tares=[tare, None])
    trials = read_trials(folder)
    same(trials.tares[0], tare)
    assert trials.tares[1] is None
    change(folder / "trials.csv", lambda table: table.assign(tare="trial_1_tare.csv"))
    both = read_trials(folder).tares
    assert both[0] is both[1]
    same(both[1], tare)


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


def test_recordings_are_written_behind_the_links_of_a_folder(tmp_path):
    folder = tmp_path / "arm"
    folder.mkdir()
    for name in ("trial_1.csv", "iiwa.urdf", "robot.yaml"):
        (folder / name).symlink_to(tmp_path / name)
    trials = read_trials(write_trials(folder, urdf("iiwa"), LOG))
    assert len(trials) == 3 and (folder / "robot.yaml").is_symlink() and (tmp_path / "robot.yaml").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm", "iiwa.urdf", "robot.yaml", "trial_1.csv"]


def test_a_file_is_no_folder_for_recordings(tmp_path):
    (tmp_path / "arm").write_text("")
    with pytest.raises(FileExistsError, match="arm is a file; name a folder"):
        write_trials(tmp_path / "arm", urdf("iiwa"), LOG)


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

"""``scimeta arm`` as a user types it: simulate, train, weigh, and what is said of a mistake."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scimeta.cli import main
from scimeta.domains import arm
from tests.commands import mistakes
from tests.commands.mistakes import contents

URDF = "<robot name='r'><link name='a'/><link name='b'/><joint name='j' type='fixed'><parent link='a'/>"
URDF += "<child link='b'/></joint></robot>"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trials of an arm, weighers that learned from them, and trials that they do not fit."""
    folder = tmp_path_factory.mktemp("arm")
    for line in (
        "simulate --trials 40 --test 4 --tare -o {}/arm_trials",
        "simulate --trials 12 --test 2 --movement fixed -o {}/fixed",
        "simulate --trials 1 --test 4 --tare --seed 5 -o {}/stranger",
        "simulate --trials 1 --test 1 --robot panda -o {}/panda",
        "simulate --trials 12 --test 2 --gravity 0 0 9.81 -o {}/hung",
        "train {}/arm_trials -o {}/weigher.safetensors --steps 150 --plot {}/training.png",
        "train {}/fixed -o {}/fixed.safetensors --steps 3 --movement fixed --plot {}/few.pdf",
    ):
        assert main(["arm", *shlex.split(line.replace("{}", str(folder)))]) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> Path:
    """A working copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], line: str, folder: Path) -> str:
    python = ("movement=", "learn_to_weigh", "read_trials", "prior_of_labels", "backend=")
    return mistakes.refused(capsys, folder, f"arm {line}", python)


def weighed(capsys: pytest.CaptureFixture[str], line: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["arm", "weigh", *shlex.split(line)]) == 0
    return capsys.readouterr()


def row(table: str, method: str) -> list[float]:
    """The numbers of a method's row."""
    (line,) = (line for line in table.splitlines() if line.startswith(method))
    return [float(number) for number in line.removeprefix(method).replace("(4 trials)", "").split()]


def test_three_commands_without_arguments_go_from_nothing_to_weighed_payloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(arm, "learn_to_weigh", quickly(arm.learn_to_weigh))
    for command in ("simulate", "train", "weigh"):
        assert main(["arm", command]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "110 trials (100 train, 10 test) of 7 joints" in said.out
    for text in (
        "next: scimeta arm train arm_trials",
        "trial_101",
        "trial_110",
        "0.9 interval",
        "figure: weighing.png",
    ):
        assert text in said.out
    assert "trial_100 " not in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm_trials", "weigher.safetensors", "weighing.png"]
    assert len(list((tmp_path / "arm_trials").iterdir())) == 113
    assert torch.get_num_threads() == threads


def quickly(learn):
    """The same with few steps."""
    return lambda *arguments, training, **options: learn(*arguments, training=arm.Training(40, 20), **options)


def test_masses_go_to_standard_output_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weighed(capsys, "weigher.safetensors arm_trials --csv m.csv")
    said = weighed(capsys, "weigher.safetensors arm_trials --csv - --plot m.png")
    assert said.out == (folder / "m.csv").read_text() and "mass [kg]" in said.err
    assert said.err.endswith("figure: m.png\n")


def test_what_is_printed_and_written_is_what_the_functions_say(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = weighed(capsys, "weigher.safetensors arm_trials --level 0.5 --csv m.csv --plot m.svg").out
    weigher, trials = arm.Weigher.load("weigher.safetensors"), arm.read_trials("arm_trials").of("test")
    log = arm.resample(trials.logs, 20)
    found = weigher.weigh(log)
    table = pd.read_csv("m.csv")
    assert table["trial"].tolist() == list(trials.names) == ["trial_41", "trial_42", "trial_43", "trial_44"]
    np.testing.assert_allclose(table["mass"], found.mass, rtol=1e-12)
    np.testing.assert_allclose(table["mass_upper"], found.interval(0.5)[1], rtol=1e-12)
    np.testing.assert_allclose(table["true_mass"], trials.mass, rtol=1e-12)
    for name, mass, upper in zip(trials.names, found.mass, found.interval(0.5)[1], strict=True):
        (line,) = (line for line in said.splitlines() if line.startswith(name))
        assert line.split()[1] == f"{mass:.4f}" and f"{upper:.4f}]" in line
    for name, numbers in weigher.compare(log, trials.mass).iterrows():
        expected = numbers[numbers.notna()].round(4).tolist()
        assert row(said, name) == pytest.approx(expected, abs=1e-9)
    assert (folder / "m.svg").read_bytes().startswith(b"<?xml")


def test_training_is_drawn_whether_trials_could_be_kept_back_or_not(made: Path) -> None:
    assert (made / "training.png").read_bytes().startswith(b"\x89PNG")
    assert (made / "few.pdf").read_bytes().startswith(b"%PDF")
    assert len(arm.Weigher.load(made / "weigher.safetensors").misses) == 8
    assert len(arm.Weigher.load(made / "fixed.safetensors").misses) == 0


def test_learning_and_taring_beat_the_arm_as_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, warned = weighed(capsys, "weigher.safetensors arm_trials")
    as_built = row(said, "least squares, 10 unknowns, as built")[0]
    assert row(said, "one gradient step, meta-learned")[0] < 0.5 * as_built
    assert row(said, "MAP, less the tare")[0] < 0.2 * as_built
    assert warned == ""


def test_an_arm_described_otherwise_is_told_by_its_urdf(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urdf = folder / "arm_trials" / "iiwa.urdf"
    text = urdf.read_text(encoding="utf-8")
    assert text.count('<mass value="2.7"/>') == 1
    urdf.write_text(text.replace('<mass value="2.7"/>', '<mass value="2.8"/>'), encoding="utf-8")
    assert "the URDF is not that of the arm that was learned" in weighed(capsys, "weigher.safetensors").err


def test_masses_that_are_not_known_are_left_out_of_the_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "arm_trials" / "trials.csv"
    table = pd.read_csv(path)
    table.loc[41:, "mass"] = np.nan
    table.to_csv(path, index=False)
    said = weighed(capsys, "weigher.safetensors --plot m.png").out
    assert "against the true mass of 1 trial" in said
    table.loc[40:, "mass"] = np.nan
    table.to_csv(path, index=False)
    said = weighed(capsys, "weigher.safetensors --csv m.csv").out
    assert "no mass is known" in said and "true [kg]" not in said
    assert row(said, "one gradient step, meta-learned")[0] == pytest.approx(
        pd.read_csv("m.csv")["mass"].mean(), abs=1e-4
    )


def test_trials_are_weighed_by_name_whatever_they_are_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = weighed(capsys, "weigher.safetensors arm_trials --trial trial_41 trial_03").out
    lines = [line.split()[0] for line in said.splitlines() if line.startswith("trial_")]
    assert lines == ["trial_03", "trial_41"]
    assert "... and 20 more" in weighed(capsys, "weigher.safetensors arm_trials --split train").out


def test_a_trial_that_touched_something_is_named_and_its_interval_withheld(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "arm_trials" / "trial_43.csv"
    table = pd.read_csv(path)
    table.loc[:12, ["tau2", "tau4"]] += [30.0, -20.0]
    table.to_csv(path, index=False)
    said, warned = weighed(capsys, "weigher.safetensors arm_trials --csv m.csv --plot m.png")
    assert "warning: trial trial_43: the torques left over are up to " in warned
    (line,) = (line for line in said.splitlines() if line.startswith("trial_43"))
    assert re.search(r"withheld, [\d.]+x", line) and "withheld: 1 of 4, where the torques left over" in said
    assert row(said, "one gradient step, meta-learned")[-1] == 0.25
    written = pd.read_csv("m.csv")
    assert written["mass_lower"].isna().tolist() == [False, False, True, False]
    assert written["mass"].notna().all() and written["residual"].notna().all()


def test_a_prior_is_asked_for_where_test_weights_do_not_say_what_comes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = folder / "fixed" / "trials.csv"
    table = pd.read_csv(trials)
    table["mass"] = np.where(table.index % 2, 2.0, 0.0)
    table.to_csv(trials, index=False)
    for options, said in (("", "2 +- 1.2 kg"), ("--prior 0 6", "3 +- 1.7 kg")):
        assert main(shlex.split(f"arm train fixed -o w.safetensors --steps 1 {options}")) == 0
        assert f"prior      {said}" in capsys.readouterr().out


def test_trials_kept_back_that_are_missed_by_far_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "arm_trials" / "trials.csv"
    table = pd.read_csv(path)
    table.loc[5, "mass"] += 3.0  # a wrong label
    table.to_csv(path, index=False)
    assert main(shlex.split("arm train arm_trials -o w.safetensors --steps 60")) == 0
    said = capsys.readouterr().out
    assert (
        "by more than three standard deviations: " in said
        and f"trial_06 ({table.loc[5, 'mass']:.3g} kg, weighed" in said
    )


def test_an_arm_hung_from_a_ceiling_is_simulated_learned_and_weighed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "gravity:" in (folder / "hung" / "robot.yaml").read_text()
    assert main(shlex.split("arm train hung -o hung.safetensors --steps 40")) == 0
    said = weighed(capsys, "hung.safetensors hung").out
    assert row(said, "one gradient step, meta-learned")[0] < 0.1


def test_a_trial_that_never_moved_is_named_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "arm_trials" / "trial_43.csv"
    table = pd.read_csv(path)
    for joint in range(1, 8):
        table[[f"qd{joint}", f"qdd{joint}"]] = 0.0
        table[f"q{joint}"] = table[f"q{joint}"].iloc[0]
    table.to_csv(path, index=False)
    trials = folder / "arm_trials" / "trials.csv"
    trials.write_text(trials.read_text().replace("trial_43_tare", ""))
    warned = weighed(capsys, "weigher.safetensors arm_trials").err
    assert warned.count("never moved") == 1
    assert "trial trial_43 never moved: 10 parameters cannot be told apart" in warned


def test_a_fixed_movement_is_taken_at_the_same_instants_each_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weigher, trials = arm.Weigher.load("fixed.safetensors"), arm.read_trials("fixed")
    log = arm.resample(trials.logs, 20)
    assert (log.t == log.t[0]).all()
    assert (log.q - weigher.movement.q).abs().max() < 3e-4  # noise of 2e-5
    assert "one test movement of 20 samples" in weighed(capsys, "fixed.safetensors fixed").out
    said = refused(capsys, "weigh fixed.safetensors fixed --samples 10", folder)
    assert "learned 20 samples of a fixed test movement, --samples asks for 10" in said
    assert "train with --movement any" in refused(capsys, "weigh fixed.safetensors arm_trials", folder)
    assert "train with --movement any" in refused(capsys, "train arm_trials --movement fixed -o w", folder)


def test_a_seed_gives_the_same_files_and_another_another_robot(made: Path, tmp_path: Path) -> None:
    for seed, name in ((0, "same"), (1, "other")):
        line = f"arm simulate --trials 3 --test 0 --seed {seed} -o {tmp_path}/{name}"
        assert main(shlex.split(line)) == 0
    again = f"arm simulate --trials 3 --test 0 -o {tmp_path}/again"
    assert main(shlex.split(again)) == 0
    same, other, again = (contents(tmp_path / name) for name in ("same", "other", "again"))
    assert same == again
    assert same["trial_1.csv"] != other["trial_1.csv"]


def test_masses_stay_within_the_rated_load_unless_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arm.read_trials("panda").mass.max() <= 3
    assert 3 < arm.read_trials("arm_trials").mass.max() <= 5
    capsys.readouterr()
    assert main(shlex.split("arm simulate --robot panda --trials 1 --test 2 --mass 4 5 -o heavy")) == 0
    assert "warning: 3 of 3 payloads are above the rated load of 3 kg" in capsys.readouterr().err
    shutil.copy("heavy/panda.urdf", "mine.urdf")
    assert main(shlex.split("arm simulate --robot mine.urdf --trials 1 --test 0 --scenario nominal -o mine")) == 0
    assert arm.read_trials("mine").arm.tip == "panda_link7"


def test_what_was_weighed_above_the_rated_load_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("arm simulate --trials 1 --test 1 --mass 15 16 -o heavy")) == 0
    warned = weighed(capsys, "weigher.safetensors heavy").err
    assert "trial_2: heavier than the arm's rated load of 14 kg" in warned


def test_bullet_gives_trials_that_are_read(folder: Path) -> None:
    pytest.importorskip("pybullet")
    line = "arm simulate --backend bullet --trials 1 --test 1 --tare --samples 20 -o bullet --mass 1 2"
    assert main(shlex.split(line)) == 0
    trials = arm.read_trials("bullet")
    assert trials.split == ("train", "test") and trials.tares[0] is None and trials.tares[1] is not None


def test_without_pybullet_the_extra_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    said = refused(capsys, "simulate --backend bullet --trials 1 --test 0 -o new", folder)
    assert "pip install 'scimeta[sim]'" in said and "--backend rigid" in said


def test_a_training_is_taken_up_from_its_checkpoint(folder: Path) -> None:
    for output in ("one", "two"):
        line = f"arm train fixed -o {output}.safetensors --steps 2 --checkpoint kept.safetensors"
        assert main(shlex.split(line)) == 0
    assert (folder / "kept.safetensors").is_file()
    one, two = (arm.Weigher.load(f"{name}.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one.meta.init[name], two.meta.init[name]) for name in one.meta.init)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("simulate -o arm_trials", "arm_trials is there already; name another folder with -o"),
        ("simulate -o training.png", "training.png is there already"),
        ("simulate --robot none.urdf -o new", "none.urdf; give a URDF file or one of iiwa, panda"),
        ("simulate --robot rigid.urdf -o new", "every joint of rigid.urdf is fixed"),
        ("simulate --robot training.png -o new", "training.png"),
        ("simulate --trials 0 -o new", "--trials is a whole number, 1 or more; got 0"),
        ("simulate --samples 1 -o new", "--samples is a whole number, 2 or more"),
        ("simulate --seed -1 -o new", "--seed is a whole number, 0 or more"),
        ("simulate --mass 5 1 -o new", "mass must be (lowest, highest), kg"),
        ("train nowhere", "there is no folder nowhere of recordings; scimeta arm simulate writes an example"),
        ("train empty", "there is no robot.yaml and no trials.csv in empty; scimeta arm simulate writes an example"),
        ("train panda", "1 trials have a mass; weigh the payloads of 10 or more"),
        ("train unlabelled", "of 12 trials 0 have a mass, none above zero: weigh one test weight or more, or state"),
        ("train unlabelled", "state the range with --prior LOW HIGH"),
        ("train fixed --prior 5 0", "expected a lowest and a higher mass, 0 <= low < high, in kg; got 5.0, 0.0"),
        ("train massless", "the moving links of iiwa.urdf (lbr_iiwa_link_1, "),
        ("simulate --gravity 0 0 1 -o new", "gravity must be 9.81 m/s^2 long, to 1 %; [0.0, 0.0, 1.0] is 1 long"),
        ("train ceiling", "if the arm hangs so, write gravity: [0.0, 0.0, 9.81] in robot.yaml"),
        ("weigh weigher.safetensors hung", "gravity along [0.0, 0.0, -9.8], not [0.0, 0.0, 9.8]; train on trials"),
        ("train lost", "there is no file 'lost/iiwa.urdf'"),
        ("train tests", "no trial is for 'train'; there are test"),
        ("train three", "3 trials have a mass; weigh the payloads of 10 or more"),
        ("train fixed --samples 60", "12 trials have fewer rows than the 60 that are taken of each: trial_01 (50)"),
        ("train fixed --samples 0", "--samples is a whole number, 1 or more; got 0"),
        ("train fixed --steps 0", "--steps is a whole number, 1 or more; got 0"),
        ("train fixed -o no/w", "cannot write no/w: the folder no does not exist"),
        ("train fixed -o fixed/trials.csv", "fixed/trials.csv would replace what is read"),
        ("train fixed -o w --checkpoint w", "w is named for two things to write"),
        ("train fixed --plot w.txt", "--plot w.txt: name a .png"),
        ("train fixed --checkpoint fixed.safetensors", "fixed.safetensors"),
        ("weigh none.safetensors", "there is no weigher none.safetensors; scimeta arm train writes one"),
        ("weigh arm_trials weigher.safetensors", "the order is scimeta arm weigh WEIGHER FOLDER"),
        ("weigh training.png", "training.png is not a whole weigher file; scimeta arm train writes one"),
        ("weigh cut.safetensors", "cut.safetensors is not a whole weigher file"),
        ("weigh weigher.safetensors nowhere", "there is no folder nowhere of recordings"),
        ("weigh weigher.safetensors panda", "weigher.safetensors learned another arm than that of panda: joints lbr_"),
        ("weigh weigher.safetensors --trial trial_99", "arm_trials has no trial trial_99; it has trial_01, "),
        ("weigh weigher.safetensors --split new", "no trial is for 'new'; there are test, train"),
        ("weigh weigher.safetensors --level 90 --csv m.csv", "level is between 0 and 1; got 90"),
        ("weigh weigher.safetensors --csv arm_trials/trial_01.csv", "would replace what is read"),
        ("weigh weigher.safetensors --csv no/m.csv", "cannot write no/m.csv: the folder no does not exist"),
        ("weigh weigher.safetensors --plot m", "--plot m: name a .png, .pdf or .svg, such as m.png"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    (folder / "rigid.urdf").write_text(URDF)
    (folder / "empty").mkdir()
    (folder / "cut.safetensors").write_bytes((folder / "weigher.safetensors").read_bytes()[:-100])
    for name in ("unlabelled", "lost", "tests", "three", "massless"):
        shutil.copytree("fixed", name)
    shutil.copytree("hung", "ceiling")
    yaml = folder / "ceiling" / "robot.yaml"
    yaml.write_text(yaml.read_text().split("gravity:")[0])
    urdf = folder / "massless" / "iiwa.urdf"
    urdf.write_text(re.sub(r'<mass value="[^"]*"/>', '<mass value="0"/>', urdf.read_text()))
    (folder / "lost" / "iiwa.urdf").unlink()
    for name, column, value in (("unlabelled", "mass", np.nan), ("tests", "split", "test")):
        path = folder / name / "trials.csv"
        pd.read_csv(path).assign(**{column: value}).to_csv(path, index=False)
    path = folder / "three" / "trials.csv"
    table = pd.read_csv(path)
    table.loc[3:, "mass"] = np.nan
    table.to_csv(path, index=False)
    assert said in refused(capsys, line, folder)


def test_a_picture_that_fails_leaves_every_file_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    for line in ("train fixed -o new --steps 1 --plot t.png", "weigh weigher.safetensors --csv m.csv --plot m.png"):
        assert "no space left" in refused(capsys, line, folder)


def test_help_shows_the_three_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for command, example in (("arm", "scimeta arm simulate "), ("arm weigh", "--csv masses.csv"), ("arm train", "50")):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--help"])
        assert ended.value.code == 0
        assert example in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["arm"])
    assert ended.value.code == 2

"""Killed at any moment and called again, a run ends on the same bits; a file that is not its checkpoint is refused."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import lr_scheduler

from scimeta.core.checkpoint import load_meta, read_state, write_state
from scimeta.core.learners import MetaLearner, anil, fomaml, maml, meta_sgd
from scimeta.core.rules import Meta
from scimeta.core.tasks import Task
from scimeta.core.train import meta_train
from scimeta.core.trained import Trained
from tests.core.problems import F64, LINE, differences, draw, line, seeded

LEARNER = maml(line, LINE, lr=0.05)  # one for all: what it has recorded is kept


def run(steps: int, *, seed: int = 0, learner: MetaLearner | None = None, **options: Any) -> Trained:
    settings = {"tasks_per_step": 3, "lr": 0.05, "validation": draw, "validation_tasks": 7, "validate_every": 4}
    learner = learner if learner is not None else LEARNER
    return meta_train(learner, draw, steps=steps, generator=seeded(seed), **{**settings, **options})


def same(one: Trained, other: Trained) -> None:
    assert not differences(one.meta, other.meta)
    assert one.history.equals(other.history)
    assert one.best_step == other.best_step


# Killed.

DRIVER = '''
"""python driver.py how folder kills...: trains in child processes, each killed in its own way, the last let through.

A kill is "draw,N" (as the N-th batch is drawn), "half,N", "before,N", "after,N" (as the N-th checkpoint is half
written, before it takes its place, after), or "wait,S" (from outside, after S seconds).
"""
import functools, os, signal, sys, time, traceback
from pathlib import Path

import torch
from torch.optim import lr_scheduler

import scimeta.files
from scimeta.core import checkpoint
from scimeta.core.checkpoint import write_state
from scimeta.core.learners import maml, meta_sgd
from scimeta.core.tasks import Task
from scimeta.core.train import meta_train

torch.set_num_threads(1)
how, folder = sys.argv[1], Path(sys.argv[2])
F64 = torch.float64
counts = {"draw": 0, "half": 0, "before": 0, "after": 0}
fatal = None


def die(what):
    counts[what] += 1
    if fatal == (what, counts[what]):
        os.kill(os.getpid(), signal.SIGKILL)


def line(params, x):
    return ((torch.sin(params["a"][0] * x) + params["a"][1] * x + params["b"] - x**2 / 4) ** 2).mean()


def uniform(number, generator):
    x = 2 * torch.rand(number, 9, generator=generator, dtype=F64)
    return Task(x[:, :4], x[:, 4:])


def draw(number, generator):
    die("draw")
    time.sleep(0.02 if how == "slow" else 0.0)
    batch = uniform(number, generator)
    if how == "global":
        batch = Task(*(x + 0.1 * torch.randn(number, 1, dtype=F64) for x in batch))
    return batch


save_file, replace = checkpoint.save_file, os.replace


def dying_save(tensors, path, facts):
    save_file(tensors, path, facts)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    die("half")
    Path(path).write_bytes(whole)


def dying_replace(old, new):
    die("before")
    replace(old, new)
    die("after")


checkpoint.save_file, os.replace = dying_save, dying_replace


def train(path):
    params = {"a": torch.tensor([0.5, -1.0], dtype=F64), "b": torch.tensor(0.1, dtype=F64)}
    learner = maml(line, params, lr=0.05)
    optimizer, scheduler, clip_norm = torch.optim.Adam, None, None
    if how == "adam":
        learner = meta_sgd(line, params, lr=0.05, steps=2)
        scheduler = lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 45)
    if how == "momentum":
        optimizer, clip_norm = functools.partial(torch.optim.SGD, momentum=0.9), 1.0
        scheduler = lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=90)
    torch.manual_seed(3)
    trained = meta_train(
        learner, draw, steps=60, tasks_per_step=3, lr=0.05, optimizer=optimizer, scheduler=scheduler,
        clip_norm=clip_norm, validation=uniform, validation_tasks=7, validate_every=6, checkpoint=path,
        checkpoint_every=4, generator=torch.Generator().manual_seed(0),
    )
    if path is None:
        path = folder / "unkilled"
    history = {name: torch.tensor(column.to_numpy(copy=True)) for name, column in trained.history.items()}
    result = {**trained.meta._asdict(), "history": history, "best": trained.best_step, "next": torch.rand(3)}
    write_state(f"{path}.result", result)


def child(path, kill):
    """Return whether the child came through."""
    global fatal
    pid = os.fork()
    if pid == 0:
        try:
            if kill and kill[0] != "wait":
                fatal = (kill[0], int(kill[1]))
            train(path)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill and kill[0] == "wait":
        time.sleep(float(kill[1]))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        sys.exit("a child failed")
    return True


train(None)  # in this process: what is imported late is there for the children
counts = dict.fromkeys(counts, 0)
kills = [tuple(word.split(",")) for word in sys.argv[3:]]
fell = 0
for kill in [*kills, None]:
    fell += not child(folder / "killed", kill)
print(f"killed {fell} of {len(kills)}")
'''


def killed(python: Callable[..., str], how: str, folder: Path, kills: list[str]) -> int:
    """Return how many of the children died; compare what the last of them came to with a run that was left alone."""
    script = folder / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    printed = python(script, how, folder, *kills)
    found, truth = (read_state(folder / f"{name}.result") for name in ("killed", "unkilled"))
    assert not differences(found, truth)
    assert len(truth["history"]["loss"]) == 60 and 0 < truth["best"] <= 60
    return int(printed.split()[-3])


@pytest.mark.parametrize(
    ("how", "kills"),
    [
        ("adam", "draw,1 draw,2 half,1 before,1 after,1 draw,12 half,3 before,2 after,3 draw,16"),
        ("momentum", "draw,7 half,2 draw,12 after,2 before,3"),
        ("global", "draw,2 half,1 draw,9 after,4 draw,16"),
    ],
    ids=["adam", "momentum", "global"],
)
def test_a_run_that_is_killed_again_and_again_ends_on_the_same_bits(how: str, kills: str, python, tmp_path) -> None:
    assert killed(python, how, tmp_path, kills.split()) == len(kills.split())


def test_a_run_that_is_killed_from_outside_ends_on_the_same_bits(python, tmp_path) -> None:
    chance = random.Random(0)
    kills = [f"wait,{chance.uniform(0.1, 0.4):.3f}" for _ in range(8)]
    assert killed(python, "slow", tmp_path, kills) >= 2  # 60 steps take 1.2 s at least


@pytest.mark.parametrize("cuts", [(1, 17), (3, 4, 5, 17), (8, 17), (16, 17), tuple(range(1, 18, 2))], ids=str)
def test_a_run_in_parts_is_the_run_in_one(cuts: tuple[int, ...], tmp_path) -> None:
    # Every step is judged: otherwise the last of each part is judged beside those of the whole run.
    options = {
        "lr": 0.4,
        "validate_every": 1,
        "scheduler": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.98),
    }
    whole = run(17, **options)
    assert whole.best_step < 16  # so that the best has to survive a resume
    for steps in cuts:
        part = run(steps, checkpoint=tmp_path / "run", **options)
    same(part, whole)


def test_the_generator_given_at_a_resume_is_put_where_the_run_was(tmp_path) -> None:
    generator = seeded()
    settings = {"tasks_per_step": 3, "lr": 0.05, "checkpoint": tmp_path / "run"}
    meta_train(LEARNER, draw, steps=5, generator=generator, **settings)
    after = generator.get_state()
    resumed = seeded()
    meta_train(LEARNER, draw, steps=5, generator=resumed, **settings)
    assert torch.equal(resumed.get_state(), after)


def test_the_validation_tasks_are_the_same_after_a_resume(tmp_path) -> None:
    seen = []

    def watched(number: int, generator: torch.Generator) -> Task:
        seen.append(draw(number, generator))
        return seen[-1]

    for steps in (5, 9):
        torch.manual_seed(steps)  # torch's own random numbers stand elsewhere when the script is started again
        torch.rand(steps)
        run(steps, validation=watched, checkpoint=tmp_path / "run")
    assert len(seen) == 2 and torch.equal(seen[0].query, seen[1].query)


def test_a_sampler_on_torchs_own_random_numbers_goes_on_where_they_were(tmp_path) -> None:
    def loose(number: int, generator: torch.Generator) -> Task:
        x = 2 * torch.rand(number, 9, dtype=F64)
        return Task(x[:, :4], x[:, 4:])

    def go(steps: int, path: Path | None, seed: int) -> Trained:
        torch.manual_seed(seed)
        learner = maml(line, LINE, lr=0.05)
        return meta_train(learner, loose, steps=steps, tasks_per_step=3, checkpoint=path, generator=seeded())

    whole = go(9, None, 1)
    go(4, tmp_path / "run", 1)
    same(go(9, tmp_path / "run", 2), whole)


@pytest.mark.parametrize("steps", [9, 6])
def test_steps_that_the_checkpoint_has_reached_are_not_taken_again(steps: int, tmp_path) -> None:
    calls = []

    def watched(number: int, generator: torch.Generator) -> Task:
        calls.append(number)
        return draw(number, generator)

    path = tmp_path / "run"
    first = run(9, checkpoint=path)
    before = path.read_bytes()
    settings = {"tasks_per_step": 3, "lr": 0.05, "validation": draw, "validation_tasks": 7, "validate_every": 4}
    again = meta_train(maml(line, LINE, lr=0.05), watched, steps=steps, checkpoint=path, generator=seeded(), **settings)
    assert len(calls) == 1  # the door's
    same(again, first)
    assert path.read_bytes() == before


def test_a_checkpoint_is_written_at_its_steps_and_at_the_last_and_leaves_nothing_beside_it(tmp_path) -> None:
    path, steps = tmp_path / "run", []

    def watched(number: int, generator: torch.Generator) -> Task:
        steps.append(read_state(path)["step"] if path.exists() else 0)
        return draw(number, generator)

    meta_train(LEARNER, watched, steps=8, tasks_per_step=3, checkpoint=path, checkpoint_every=3, generator=seeded())
    assert steps[1:] == [0, 0, 0, 3, 3, 3, 6, 6]
    assert read_state(path)["step"] == 8
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


# Another run's.


def other_shape() -> MetaLearner:
    def wide(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return line({**params, "a": params["a"][:2]}, x) + (params["a"][2] ** 2)

    return maml(wide, {**LINE, "a": torch.ones(3, dtype=F64)}, lr=0.05)


def single() -> MetaLearner:
    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return line(params, x.float())

    return maml(loss, {name: value.float() for name, value in LINE.items()}, lr=0.05)


def renamed() -> MetaLearner:
    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return line({"a": params["a"], "b": params["c"]}, x)

    return maml(loss, {"a": LINE["a"], "c": LINE["b"]}, lr=0.05)


OTHERS = {
    "another algorithm": ({"learner": fomaml(line, LINE, lr=0.05)}, "algorithm was MAML, is FOMAML"),
    "another shape": ({"learner": other_shape()}, r"init.a was \['float64', 2\], is \['float64', 3\]"),
    "another type": ({"learner": single()}, r"init.a was \['float64', 2\], is \['float32', 2\]"),
    "another name": ({"learner": renamed()}, r"init.b was \['float64'\], is not there"),
    "more steps": ({"learner": maml(line, LINE, lr=0.05, steps=2)}, "inner steps was 1, is 2"),
    "fewer fast": ({"learner": maml(line, LINE, lr=0.05, fast=("a",))}, r"fast was \['\*'\], is \['a'\]"),
    "learned rates": ({"learner": meta_sgd(line, LINE, lr=0.05)}, "rule.a was not there"),
    "more tasks": ({"tasks_per_step": 5}, "tasks_per_step was 3, is 5"),
    "another rate": ({"lr": 0.01}, "lr was 0.05, is 0.01"),
    "another optimizer": ({"optimizer": torch.optim.SGD}, "optimizer was Adam, is SGD"),
    "another norm": ({"clip_norm": 1.0}, "clip_norm was None, is 1.0"),
    "learning less": ({"learn": ("init.a",)}, r"learn was \['init.\*', 'rule.\*'\], is \['init.a'\]"),
    "judged elsewhen": ({"validate_every": 2}, "validate_every was 4, is 2"),
    "never judged": ({"validation": None}, "validation"),
    "a scheduler": ({"scheduler": lambda optimizer: lr_scheduler.StepLR(optimizer, 3)}, "scheduler"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(what: str, tmp_path) -> None:
    change, sentence = OTHERS[what]
    path = tmp_path / "run"
    run(5, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=sentence) as caught:
        run(9, checkpoint=path, **change)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [None, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9)])
def test_a_scheduler_that_is_left_out_or_exchanged_is_refused(left: Callable | None, tmp_path) -> None:
    run(5, checkpoint=tmp_path / "run", scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 3))
    with pytest.raises(ValueError, match="scheduler"):
        run(9, checkpoint=tmp_path / "run", scheduler=left)


# Damaged.


def written(folder: Path) -> Path:
    run(5, checkpoint=folder / "run", scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 3))
    return folder / "run"


def go_on(path: Path) -> Trained:
    return run(5, checkpoint=path, scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 3))


def test_a_checkpoint_cut_at_any_length_is_refused(tmp_path) -> None:
    whole = written(tmp_path).read_bytes()
    cut = tmp_path / "cut"
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        for opened in (read_state, functools.partial(load_meta, LEARNER)):
            with pytest.raises(ValueError, match=r"cut is truncated"):
                opened(cut)
    for length in (0, 8, 500, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut is truncated"):
            go_on(cut)


@pytest.mark.parametrize("part", ["header", "tensors"])
def test_a_flipped_bit_is_refused_or_changes_nothing(part: str, tmp_path) -> None:
    path, chance = written(tmp_path), random.Random(1)
    whole, truth = path.read_bytes(), go_on(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = range(0, header, 17) if part == "header" else range(header, len(whole), 61)
    flipped, silent, other = tmp_path / "flipped", [], []
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        flipped.write_bytes(bytes(damaged))
        try:
            found = go_on(flipped)
            state = read_state(flipped)
        except ValueError as error:
            assert "flipped" in str(error)
        except Exception as error:  # the test is that there is none
            other.append(f"{place}: {type(error).__name__}: {error}")
        else:
            try:
                same(found, truth)
                changed = differences(state, read_state(path))
            except AssertionError:
                changed = ["the result"]
            if changed:
                silent.append(f"{place} ({', '.join(changed[:2])})")
    assert not other, f"{len(other)} of {len(places)}, such as {other[:4]}"
    assert not silent, f"{len(silent)} of {len(places)} go unnoticed, such as {silent[:8]}"


class Trap:
    """What runs code if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path) -> None:
    sprung, pickled, saved = tmp_path / "sprung", tmp_path / "pickled", tmp_path / "saved"
    pickled.write_bytes(pickle.dumps(Trap(sprung)))
    torch.save({"meta": Trap(sprung)}, saved)
    for path in (pickled, saved):
        with pytest.raises(ValueError, match="is truncated or no checkpoint"):
            run(5, checkpoint=path)
        with pytest.raises(ValueError, match="is truncated or no checkpoint"):
            load_meta(LEARNER, path)
    assert not sprung.exists()
    pickle.loads(pickled.read_bytes())
    assert sprung.exists()  # the trap does work


def test_files_of_somebody_else_are_refused(tmp_path) -> None:
    path = tmp_path / "theirs"
    learner = maml(line, LINE, lr=0.05)
    for facts in (None, {"format": "pt"}, {"format": "scimeta checkpoint 99", "outline": "{}"}):
        save_file({"weight": torch.ones(3)}, path, facts)
        for opened in (lambda: run(5, checkpoint=path), lambda: load_meta(learner, path)):
            with pytest.raises(ValueError, match="is a safetensors file, but no scimeta checkpoint"):
                opened()
    for content in (b"", b"\x00", b"{}", json.dumps({"step": 3}).encode(), b"\xff" * 200):
        path.write_bytes(content)
        for opened in (lambda: run(5, checkpoint=path), lambda: load_meta(learner, path)):
            with pytest.raises(ValueError, match="theirs is truncated or no checkpoint"):
                opened()


def test_a_state_of_another_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "kind"
    for state in ([1, 2], {"settings": 3}, {"settings": {}, "learner": {}}, 7, None, {"best": 1, "learner": 2}):
        write_state(path, state)
        with pytest.raises(ValueError, match="kind"):
            run(5, checkpoint=path)
        with pytest.raises(ValueError, match="kind"):
            load_meta(LEARNER, path)


def test_a_folder_and_a_missing_file_are_named(tmp_path) -> None:
    learner = maml(line, LINE, lr=0.05)
    with pytest.raises((ValueError, IsADirectoryError), match="folder"):
        run(5, checkpoint=tmp_path)
    with pytest.raises((ValueError, IsADirectoryError), match="folder"):
        load_meta(learner, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent"):
        load_meta(learner, tmp_path / "absent")


@pytest.mark.parametrize("name", ["run.pt", "run.json", "-", os.devnull])
def test_a_file_that_could_not_be_taken_up_again_is_refused_before_the_first_step(tmp_path, monkeypatch, name) -> None:
    def tasks(*_):
        raise AssertionError("a task was drawn")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cannot write .*(not written as|to be read again)"):
        meta_train(LEARNER, tasks, steps=3, checkpoint=name, generator=seeded())
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_kept_behind_a_link(tmp_path) -> None:
    (tmp_path / "link").symlink_to("run")
    whole, part = run(9), run(5, checkpoint=tmp_path / "link")
    again = run(9, checkpoint=tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "run").is_symlink()
    assert not differences(again.meta.init, whole.meta.init) and differences(part.meta.init, whole.meta.init)


def test_a_pipe_is_no_checkpoint(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a pipe or a device, not a checkpoint"):
        read_state(tmp_path / "pipe")


# What is saved.


def test_the_parameters_that_were_saved_come_back(tmp_path) -> None:
    learner = meta_sgd(line, LINE, lr=0.05)
    trained = run(9, learner=learner)
    assert trained.save(tmp_path / "model") == tmp_path / "model"
    found = load_meta(learner, tmp_path / "model")
    for part in Meta._fields:
        assert not differences(getattr(found.meta, part), getattr(trained.meta, part))
        assert list(getattr(found.meta, part)) == list(getattr(learner.meta, part))
    assert found.name == "Meta-SGD" and found.adapt is learner.adapt
    with pytest.raises(ValueError, match="model holds no run of meta_train"):
        run(12, learner=learner, checkpoint=tmp_path / "model")
    with pytest.raises(ValueError, match="algorithm was Meta-SGD, is MAML"):
        load_meta(LEARNER, tmp_path / "model")
    with pytest.raises(ValueError, match=r"fast was \['\*'\], is \['b'\]"):
        load_meta(meta_sgd(line, LINE, lr=0.05, fast=("b",)), tmp_path / "model")


def test_a_checkpoint_of_a_run_gives_its_best_state(tmp_path) -> None:
    trained = run(17, lr=0.4, validate_every=1, checkpoint=tmp_path / "run")
    assert trained.best_step < 17
    found = load_meta(LEARNER, tmp_path / "run")
    assert not differences(found.meta.init, trained.meta.init)
    assert differences(read_state(tmp_path / "run")["meta"]["init"], trained.meta.init)  # the last is another


def test_a_state_comes_back_exactly(tmp_path) -> None:
    bits = torch.randint(-(2**31), 2**31, (50,), generator=seeded()).int()
    state = {
        "tensors": {
            0: bits.view(torch.float32),
            "half": torch.tensor([1.5], dtype=torch.bfloat16),
            "none": torch.zeros(0),
        },
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "shared": [bits, bits],
        "numbers": [0.1, 1e-320, 2**70, -0.0, float("inf"), float("nan"), True, None, "ä\n", 0.1 + 0.2],
        "empty": [{}, [], ""],
        3: {"dict": 1, "list": 2, "tensor": "x"},
    }
    found = read_state(write_state(tmp_path / "state", state))
    assert not differences(found, state)
    assert found["tensors"][0].view(torch.int32).equal(bits)  # the payload of a nan, too
    assert [type(value) for value in found["numbers"]] == [type(value) for value in state["numbers"]]
    assert read_state(write_state(tmp_path / "pair", (1, 2))) == [1, 2]


def test_what_a_checkpoint_cannot_hold_is_named_and_the_old_file_stays(tmp_path) -> None:
    path = write_state(tmp_path / "state", {"a": 1})
    with pytest.raises(TypeError, match=r"cannot hold state\.b\.1, a complex"):
        write_state(path, {"b": [1, 2j]})
    assert read_state(path) == {"a": 1}
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        write_state(tmp_path / "nowhere" / "state", {"a": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_what_was_learned_is_not_saved_under_a_suffix_of_another_format(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"not written as \.pt; name it model\.safetensors"):
        run(1).save(tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_parameter_is_saved_with_the_fast(tmp_path) -> None:
    learner = anil(line, LINE, lr=0.05, fast=("b",))
    trained = run(9, learner=learner)
    assert not torch.equal(trained.meta.init["a"], LINE["a"])
    found = load_meta(learner, trained.save(tmp_path / "model"))
    assert not differences(found.meta.init, trained.meta.init)

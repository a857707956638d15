"""Several processes give the result of one; the device asked for is the device got."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch

from scimeta.core.checkpoint import read_state
from scimeta.core.distributed import Ranks, find_device, join
from scimeta.core.rules import Meta
from scimeta.core.tasks import Task
from tests.core.problems import differences

CPU = torch.device("cpu")

SCRIPT = '''
"""Trains, alone or as one of several processes, and writes what came of it from the first of them."""
import os, sys
from pathlib import Path

import torch

from scimeta.core.checkpoint import write_state
from scimeta.core.learners import maml_plus_plus
from scimeta.core.tasks import Task
from scimeta.core.train import meta_train

folder, rank = Path(sys.argv[1]), int(os.environ.get("RANK", "0"))
F64 = torch.float64
PARAMS = {"w": torch.randn(1, 5, generator=torch.Generator().manual_seed(1), dtype=F64), "v": torch.ones(5, dtype=F64)}


def loss(params, data):
    x, y = data
    return ((torch.tanh(x[:, None] @ params["w"]) @ params["v"] - y) ** 2).mean()


def draw(number, generator):
    height, x = (torch.rand(number, n, generator=generator, dtype=F64) for n in (1, 9))
    y = (1 + height) * torch.sin(6 * x)
    return Task((x[:, :4], y[:, :4]), (x[:, 4:], y[:, 4:]))


def spoiled(number, generator):
    batch = draw(number, generator)
    if generator.get_state().equal(after_seven):
        batch.query[1][4, 0] = float("nan")
    return batch


LEARNER = maml_plus_plus(loss, PARAMS, lr=0.02, steps=2, multi_step_until=40)


def train(steps, tasks=6, sampler=draw, **options):
    return meta_train(
        LEARNER, sampler, steps=steps, tasks_per_step=tasks, lr=0.02, clip_norm=1.0, validation=draw,
        validation_tasks=5, validate_every=20, generator=torch.Generator().manual_seed(0), **options,
    )


def result(trained):
    history = {name: torch.tensor(column.to_numpy(copy=True)) for name, column in trained.history.items()}
    return {**trained.meta._asdict(), "history": history, "best": trained.best_step}


whole = result(train(60))
for steps in (40, 60):
    parts = result(train(steps, checkpoint=folder / "run", checkpoint_every=10))
plain = torch.Generator().manual_seed(0)
for _ in range(7):
    draw(6, plain)
after_seven = plain.get_state()
sentences = []
for wrong in (lambda: train(60, sampler=spoiled), lambda: train(60, tasks=5)):
    try:
        train_result = wrong()
    except (ValueError, FloatingPointError) as error:
        sentences.append(f"{type(error).__name__}: {error}")
    else:
        sentences.append("none")
write_state(folder / f"rank{rank}", {"whole": whole, "parts": parts, "sentences": sentences})
'''


def test_two_processes_train_as_one(python, tmp_path, monkeypatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.setattr(sys, "argv", [str(script), str(one)])
    runpy.run_path(str(script))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")  # finds a free port
    python(*torchrun, script, two)
    alone, *both = (read_state(path) for path in (one / "rank0", two / "rank0", two / "rank1"))
    assert set(both[0]["whole"]) == {"init", "rule", "history", "best"}
    for mine in both:
        for how in ("whole", "parts"):
            torch.testing.assert_close(mine[how], alone["whole"], rtol=1e-12, atol=1e-12, equal_nan=True)
            assert not differences(mine[how], both[0][how])  # the processes agree bit by bit
        assert mine["sentences"][0] == alone["sentences"][0]  # step and task are those of the whole batch
        assert "at step 7 the query loss of task 4 (of 6) is nan" in mine["sentences"][0]
        assert "5 tasks cannot be shared evenly by 2 processes" in mine["sentences"][1]
    assert alone["sentences"][1] == "none"
    history = alone["whole"]["history"]["loss"]
    assert history.shape == (60,) and history[-5:].mean() < 0.8 * history[:5].mean()


def test_the_shares_of_all_processes_are_the_batch() -> None:
    batch = Task((torch.arange(12.0).reshape(6, 2),), {"y": torch.arange(6)})
    shares = [Ranks(rank, 3).share(batch, 6) for rank in range(3)]
    assert torch.equal(torch.cat([share.support[0] for share in shares]), batch.support[0])
    assert torch.equal(torch.cat([share.query["y"] for share in shares]), batch.query["y"])
    assert all(len(share.query["y"]) == 2 for share in shares)


def test_a_process_alone_keeps_its_batch_and_its_gradient(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join(CPU)
    assert alone == Ranks(0, 1)
    batch, losses, gradient = Task(torch.ones(3), torch.ones(3)), torch.ones(3), Meta({"a": torch.ones(())}, {})
    assert alone.share(batch, 3) is batch
    assert alone.average(losses, gradient) == (losses, gradient)
    alone.wait()


def test_no_device_means_that_of_the_parameters() -> None:
    assert find_device(None, CPU) == CPU
    assert find_device("cpu", CPU) == CPU and find_device(CPU, CPU) == CPU


@pytest.mark.parametrize("device", ["abacus", "cuda:99", 99, "cuda:-1", "xpu:7", "mps:3", "meta"])
def test_a_device_that_is_not_there_is_named(device: str | int) -> None:
    with pytest.raises(ValueError, match=r"device '?(abacus|cuda:99|99|cuda:-1|xpu:7|mps:3|meta)'? "):
        find_device(device, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_cuda_is_refused() -> None:
    with pytest.raises(ValueError, match="'cuda' is asked for, but torch sees 0 CUDA devices; pass 'cpu'"):
        find_device("cuda", CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_the_gpu_of_this_process(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert find_device("cuda", CPU) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(ValueError, match="but torch sees"):
        find_device("cuda", CPU)

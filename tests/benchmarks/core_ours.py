"""Our own meta-step on the problems of :mod:`core_problems`, in each way to run it, and its memory.

    python tests/benchmarks/core_ours.py conv4 16 5 recorded unrolled

prints the peak memory, in MiB over the loaded libraries, of so many tasks and steps in that way: one process for each
figure, since a peak belongs to a process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import core_problems
import torch
from core_problems import META_LR, Problem
from core_rivals import Rival, learn2learn_rival
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from scimeta import MetaLearner, Task, functional, maml
from scimeta.core.recording import Execution, execution
from scimeta.core.tasks import Params
from scimeta.models import networks

NAMES = {"eager": "ours, eager (vmap + grad)", "recorded": "ours, recorded", "compiled": "ours, compiled"}


def learner(problem: Problem, adjoint: bool = False, chunk_size: int | None = None) -> MetaLearner:
    """Return second-order MAML on the problem, its network written as a user writes it."""
    net = networks.mlp([1, *sizes(problem), 1]) if problem.kind == "sine" else networks.conv4(core_problems.WAYS)
    names, apply = functional(net)
    params = {name: torch.tensor(problem.params[name]) for name in names}

    def loss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        x, y = data
        return F.mse_loss(apply(params, x), y) if problem.kind == "sine" else F.cross_entropy(apply(params, x), y)

    return maml(loss, params, lr=problem.lr, steps=problem.steps, adjoint=adjoint, chunk_size=chunk_size)


def sizes(problem: Problem) -> list[int]:
    """Return the widths of the hidden layers."""
    return [len(value) for name, value in problem.params.items() if name.endswith("bias")][:-1]


def batch(problem: Problem) -> Task:
    return Task(*(tuple(torch.from_numpy(a) for a in part) for part in (problem.support, problem.query)))


def our_rival(
    problem: Problem, how: Execution, adjoint: bool = False, chunk_size: int | None = None, device: str = "cpu"
) -> Rival:
    """Return our meta-step: the meta-gradient as ``how`` says, and Adam fused as in ``meta_train``."""
    ours, task = pytree.tree_map(
        lambda x: x.to(device) if isinstance(x, Tensor) else x, (learner(problem, adjoint, chunk_size), batch(problem))
    )
    leaves = ours.meta.init
    optimizer = torch.optim.Adam(leaves.values(), META_LR, fused=True)
    start = {name: value.clone() for name, value in leaves.items()}

    def step() -> None:
        with execution(how):
            _, gradient = ours.meta_gradient(ours.meta, task, 0)
        for name, value in leaves.items():
            value.grad = gradient.init[name]
        optimizer.step()

    def gradient() -> dict:
        with execution(how):
            found = ours.meta_gradient(ours.meta._replace(init=start), task, 0)[1]
        return {name: value.cpu().numpy() for name, value in found.init.items()}

    suffix = (", adjoint loop" if adjoint else "") + (f", {chunk_size} tasks at once" if chunk_size else "")
    return Rival(NAMES[how] + suffix, step, gradient)


def peak_memory(problem: Problem, how: str, loop: str) -> float:
    """Return by how many MiB the process's peak memory grows over three meta-steps, recording included."""
    torch.set_num_threads(1)
    before = memory("VmRSS")
    theirs = how == "learn2learn"
    rival = learn2learn_rival(problem) if theirs else our_rival(problem, how, adjoint=loop == "adjoint")
    if isinstance(rival, str):
        raise SystemExit(rival)
    for _ in range(3):
        rival.step()
    return memory("VmHWM") - before


def memory(what: str) -> float:
    """Return the process's memory in MiB: in use now (VmRSS), or at its peak (VmHWM). Linux only."""
    (line,) = (x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    kind, tasks, steps, how, loop, *width = sys.argv[1:]
    make = core_problems.sine if kind == "sine" else core_problems.conv4
    extra = {"width": int(width[0])} if width else {}
    print(f"{peak_memory(make(int(tasks), int(steps), **extra), how, loop):.1f}")

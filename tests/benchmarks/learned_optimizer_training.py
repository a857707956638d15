"""What one outer step of learning our rule costs, beside plain loops of torch that compute the same gradient."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from statistics import median

import torch
from learned_optimizer_ours import WINDOW
from torch import Tensor

from scimeta import MetaLearner, Task, over_tasks
from scimeta.core.controller_rule import controller
from scimeta.core.rule_learners import learned_optimizer
from scimeta.core.rules import Meta
from scimeta.core.tasks import at_step, select_tasks
from scimeta.domains import landscapes

SMOKE = "SCIMETA_SMOKE" in os.environ
TASKS = 4 if SMOKE else 64
ROUNDS = 2 if SMOKE else 9


def main() -> None:
    """Print CPU milliseconds of one outer step and each gradient's distance from ours."""
    # Neither clipped nor rescaled nor from later on, so that the plain loops stay plain; the cost is the same.
    rule, start = controller(), landscapes.origin(10)
    learner = learned_optimizer(landscapes.loss, start, rule=rule, steps=WINDOW, query_loss=landscapes.log_reduction)
    task = landscapes.quadratics(steps=WINDOW)(TASKS, torch.Generator().manual_seed(0))
    ways = {
        "ours": lambda: learner.meta_gradient(learner.meta, task, 0)[1].rule,
        "plain loop, tasks batched": lambda: batched_loop(learner, task),
        "plain loop, task by task": lambda: plain_loop(learner, task),
    }
    print(
        f"\nOne outer step, {TASKS} tasks, window {learner.adapt.steps}: median CPU ms of {ROUNDS} rounds, one thread"
    )
    ours = None
    for name, way in ways.items():
        gradient = way()
        ours = gradient if ours is None else ours
        norm = sum((value**2).sum() for value in ours.values()) ** 0.5
        off = sum(((gradient[key] - value) ** 2).sum() for key, value in ours.items()) ** 0.5 / norm
        ms = 1e3 * median(seconds(way) for _ in range(2 if name.endswith("task") else ROUNDS))
        print(f"    {name:<28} {ms:10.1f}   gradient off by {float(off):.0e}", flush=True)
    if importlib.util.find_spec("learned_optimization") is None:
        print("    google/learned_optimization is not installed: left out")


def seconds(way: Callable[[], object]) -> float:
    before = time.process_time()
    way()
    return time.process_time() - before


def batched_loop(learner: MetaLearner, task: Task) -> dict[str, Tensor]:
    """Return the gradient by one backward pass through all steps of all tasks, each step one vmap."""
    learned = {name: value.detach().requires_grad_() for name, value in learner.meta.rule.items()}
    adapt, number = learner.adapt, len(task.query[1])
    moving = {name: value.expand(number, *value.shape) for name, value in learner.meta.init.items()}
    state, total = over_tasks(adapt.rule.init)(moving), 0.0
    for done in range(adapt.steps):
        seen = at_step(task.support, done, batched=True)
        step = over_tasks(lambda moving, state, seen: adapt.step(learned, {}, moving, state, seen))
        moving, state = step(moving, state, seen)
        total = total + over_tasks(learner.query_loss)(moving, task.query).mean() / adapt.steps
    return dict(zip(learned, torch.autograd.grad(total, list(learned.values()), allow_unused=False), strict=True))


def plain_loop(learner: MetaLearner, task: Task) -> dict[str, Tensor]:
    """Return the gradient by a Python loop over the tasks, as one would write it first."""
    learned = {name: value.detach().requires_grad_() for name, value in learner.meta.rule.items()}
    number, steps = len(task.query[1]), learner.adapt.steps
    for row in range(number):
        support, query = select_tasks(tuple(task), row)
        path = learner.adapt.path(Meta(learner.meta.init, learned), support)
        next(path)
        total = sum(learner.query_loss(params, query) for params in path)
        (total / steps / number).backward()
    return {name: value.grad for name, value in learned.items()}

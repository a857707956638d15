"""Our own learned rule on the benchmark's problems: trained once, run for any number of steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from learned_optimizer_problems import DTYPE, Family, Problems
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from scimeta import MetaLearner, Rule, Task, meta_train, over_tasks
from scimeta.core.controller_rule import controller
from scimeta.core.inner_loop import Adaptation
from scimeta.core.recording import record
from scimeta.core.rule_learners import learned_optimizer
from scimeta.core.rules import Meta
from scimeta.core.tasks import Loss, Params, Stream, TaskSampler, at_step
from scimeta.domains import landscapes

SMOKE = "SCIMETA_SMOKE" in os.environ
WINDOW, BURN_IN, TASKS = 20, 130, 128
OUTER_STEPS, GROWTH = (5, 5) if SMOKE else (370, 280)
LR = 4e-3
GUARD_LR = 0.02  # of the Adam that a guard falls back to
BOTH_STEPS, BOTH_TASKS, BOTH_LR = (2, 8, 1e-3) if SMOKE else (300, 64, 1e-3)
MEMORY = (5.0, 1000.0)  # steps
NOISES = (0.0,) * 2 + (0.1,) * 6 + (0.03, 0.3)
CURVED = 0.12  # of the batches
_SEED = 5


class Ours(NamedTuple):
    """A learned rule.

    Attributes:
        adapt: the inner loop.
        meta: start and rule, in float64.
        seconds: CPU time of the training.
    """

    adapt: Adaptation
    meta: Meta
    seconds: float


def weights(steps: int) -> list[float]:
    """Return the weight of each step of a window: its mean counts, and its end half as much again."""
    return [1 / steps] * (steps - 1) + [1 / steps + 0.5]


def terrain(number: int, generator: torch.Generator) -> Task:
    """Return ravines with and without noise, batches of quadratics and a few of curved ones."""
    steps = WINDOW + BURN_IN
    if torch.rand((), generator=generator) < CURVED:
        return landscapes.curved_ravines(steps=steps, noise=NOISES)(number, generator)
    return landscapes.quadratics(steps=steps, noise=NOISES)(number, generator)


def untrained() -> tuple[MetaLearner, TaskSampler]:
    """Return the learner of our rule and the problems that it learns from."""
    learner = learned_optimizer(
        landscapes.loss,
        landscapes.origin(10),
        rule=controller(MEMORY),
        steps=WINDOW,
        query_loss=landscapes.log_reduction,
        burn_in=BURN_IN,
        growth=GROWTH,
        rescale=30.0,
        clip=1.0,
        weights=weights(WINDOW),
    )
    return learner, terrain


def train_ours() -> Ours:
    """Return the rule after meta-training on ravines of all steepnesses and noises."""
    learner, sampler = untrained()
    before = time.process_time()
    trained = meta_train(
        learner,
        sampler,
        steps=OUTER_STEPS,
        tasks_per_step=TASKS,
        lr=LR,
        optimizer=partial(torch.optim.Adam, betas=(0.9, 0.99)),
        scheduler=partial(LambdaLR, lr_lambda=warm_then_falling),
        clip_norm=1.0,
        learn=("rule.*",),
        generator=torch.Generator().manual_seed(_SEED),
    )
    seconds = time.process_time() - before
    return Ours(learner.adapt, in_float64(trained.meta), seconds)


def warm_then_falling(step: int) -> float:
    """Return the part of the outer rate at a step: rising over the first 50, then falling as a cosine."""
    return min(1.0, 0.05 + step / 50) * (0.51 + 0.49 * math.cos(math.pi * step / OUTER_STEPS))


def in_float64(meta: Meta) -> Meta:
    return Meta(*({name: value.to(DTYPE) for name, value in part.items()} for part in meta))


def run(adapt: Adaptation, meta: Meta, problems: Problems, horizons: Sequence[int]) -> dict[int, Tensor]:
    """Return number of steps -> (problems,) scores, all of one descent.

    Args:
        adapt: the inner loop.
        meta: where every descent starts, and the rule.
        problems: of any dimension if the start is none, else of the start's.
        horizons: in any order.
    """
    number, dimension = problems.problem.start.shape
    start = meta.init["x"] if meta.init["x"].shape == (dimension,) else torch.zeros(dimension, dtype=DTYPE)
    moving = {"x": start.expand(number, dimension).contiguous()}
    state = over_tasks(adapt.rule.init)(moving)
    step = record(lambda *now: over_tasks(partial(adapt.step, meta.rule, {}))(*now))
    found = {}
    with torch.no_grad():
        for done in range(max(horizons) + 1):
            if done in horizons:
                found[done] = problems.score(moving["x"])
            seen = at_step(Stream(problems.problem, problems.noise), done, batched=True)
            moving, state = step(moving, state, seen)
    return found


def learn_both(ours: Ours, start: Params, family: Family, steps: int) -> Meta:
    """Return start and rule learned together on a family, from a learned start and the rule already trained."""
    return learn_both_on(
        landscapes.loss,
        Meta(start, ours.meta.rule),
        ours.adapt.rule,
        family.sampler(steps, DTYPE),
        steps,
        landscapes.log_reduction,
    )


def learn_both_on(loss: Loss, meta: Meta, rule: Rule, sampler: TaskSampler, steps: int, query_loss: Loss) -> Meta:
    """Return start and rule learned together.

    Args:
        loss, query_loss: of one task.
        meta: from where on.
        rule: whose parameters are among them.
        sampler: of the tasks.
        steps: inner steps; the query loss after each of them counts.
    """
    learner = learned_optimizer(
        loss,
        meta.init,
        rule=rule._replace(params=meta.rule),
        steps=steps,
        query_loss=query_loss,
        clip=1.0,
        weights=weights(steps),
    )
    trained = meta_train(
        learner,
        sampler,
        steps=BOTH_STEPS,
        tasks_per_step=BOTH_TASKS,
        lr=BOTH_LR,
        scheduler=partial(CosineAnnealingLR, T_max=BOTH_STEPS),
        clip_norm=1.0,
        generator=torch.Generator().manual_seed(_SEED),
    )
    return trained.meta

"""Ten-shot sinusoids, the terrain of the map: query loss of new waves after five steps, for each start and rule."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import torch
from core_sinusoids import sinusoids
from learned_optimizer_ours import GUARD_LR, Ours, learn_both_on
from torch import Tensor
from torch.nn import functional as F

from scimeta import Task, functional, maml, meta_train, over_tasks
from scimeta.core.guard import guarded
from scimeta.core.inner_loop import Adaptation
from scimeta.core.rules import Meta, adam
from scimeta.core.tasks import Params
from scimeta.models import networks

SMOKE = "SCIMETA_SMOKE" in os.environ
SHOTS, QUERIES, STEPS = 10, 100, 5
OUTER_STEPS, TASKS = (20, 4) if SMOKE else (3000, 25)
FIRST_STEPS = (0.003, 0.03) if SMOKE else (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Root mean squares over the weights of the rule's first step, tuned as Adam's rate is: weights are not a ravine's
coordinates, and no gradient tells a rule their unit."""
VALIDATION, TEST = (8, 16) if SMOKE else (256, 512)
RATES = (0.01, 0.1) if SMOKE else (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def row(ours: Ours) -> dict[str, float]:
    """Return column of the table -> mean query loss after five steps."""
    params, apply = functional(networks.mlp([1, 40, 40, 1], generator=torch.Generator().manual_seed(0)))

    def loss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(apply(params, data[0]), data[1])

    seen, unseen = (sinusoids(SHOTS, QUERIES)(n, generator(s)) for n, s in ((VALIDATION, 11), (TEST, 12)))
    rules = [adam(lr, betas) for lr in RATES for betas in ((0.9, 0.999), (0.5, 0.9), (0.0, 0.9))]
    tuned = min((Adaptation(loss, rule, STEPS) for rule in rules), key=lambda a: judged(a, Meta(params, {}), seen))
    found = {"Adam": judged(tuned, Meta(params, {}), unseen)}
    learner = maml(loss, params, lr=0.01)  # one step in training: with five of them the untrained start diverges
    sampler = sinusoids(SHOTS, SHOTS)
    trained = meta_train(
        learner, sampler, steps=OUTER_STEPS, tasks_per_step=TASKS, clip_norm=10.0, generator=generator(1)
    )
    found["map"] = judged(learner.adapt, trained.meta, unseen)
    adapt = replace(ours.adapt, loss=loss, rule=guarded(ours.adapt.rule, adam(GUARD_LR)))
    rule = {name: value.float() for name, value in ours.meta.rule.items()}
    cars = [Meta(params, rule | {"log_step": torch.tensor(step).log()}) for step in FIRST_STEPS]
    found["car"] = judged(adapt, min(cars, key=lambda meta: judged(adapt, meta, seen)), unseen)
    starts = [meta._replace(init=trained.meta.init) for meta in cars]
    start = min(starts, key=lambda meta: judged(adapt, meta, seen))
    both = learn_both_on(loss, start, adapt.rule, sampler, STEPS, loss)
    found["both"] = judged(adapt, both, unseen)
    return found


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def judged(adapt: Adaptation, meta: Meta, task: Task) -> float:
    """Return the mean query loss after five steps."""
    adapted = over_tasks(partial(_adapted, adapt, meta))(task.support)
    return float(over_tasks(adapt.loss)(adapted, task.query).mean().nan_to_num(nan=torch.inf))


def _adapted(adapt: Adaptation, meta: Meta, support: tuple[Tensor, Tensor]) -> Params:
    return adapt(meta, support, STEPS)

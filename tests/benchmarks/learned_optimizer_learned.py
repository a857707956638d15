"""Rivals that are learned, by the core: a schedule of rates and momenta, and MAML's starts with their rates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import learned_optimizer_problems as problems_of
import torch
from learned_optimizer_problems import DTYPE, Family, Problems
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from scimeta import MetaLearner, Rule, learned_rates, maml, meta_train, over_tasks
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Params, Stream
from scimeta.domains import landscapes

SMOKE = "SCIMETA_SMOKE" in os.environ
OUTER_STEPS, TASKS = (5, 8) if SMOKE else (600, 64)
_SEED = 7
_TINY = 1e-30


def log_loss(params: Params, data: Data) -> Tensor:
    """Return log10 of the value: its mean is what the benchmark scores, up to a constant."""
    return (landscapes.loss(params, data) + _TINY).log10()


def schedule(steps: int, lr: float, momentum: float) -> Rule:
    """Return heavy ball whose rate and momentum are learned for each of so many steps, v <- m_t v + g, p <- p - r_t v.

    Args:
        steps: of the inner loop.
        lr, momentum: where they start.
    """
    params = {
        "log_rate": torch.full((steps,), math.log(lr), dtype=DTYPE),
        "momentum": torch.full((steps,), momentum, dtype=DTYPE),
    }

    def init(params: Params) -> tuple[Tensor, Params]:
        return torch.zeros((), dtype=DTYPE), {name: torch.zeros_like(value) for name, value in params.items()}

    def update(learned: Params, grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        count, velocity = state
        now = count.long()[None]
        rate, decay = (learned[name].index_select(0, now)[0] for name in ("log_rate", "momentum"))
        velocity = {name: decay * velocity[name] + grad for name, grad in grads.items()}
        return {name: value - rate.exp() * velocity[name] for name, value in params.items()}, (count + 1, velocity)

    return Rule(params, init, update)


def train(
    learner: MetaLearner, family: Family, lr: float, learn: tuple[str, ...] = ("init.*", "rule.*")
) -> MetaLearner:
    """Return the learner after an outer loop on the family, whose rate falls to zero."""
    trained = meta_train(
        learner,
        family.sampler(learner.adapt.steps, DTYPE),
        steps=OUTER_STEPS,
        tasks_per_step=TASKS,
        lr=lr,
        scheduler=partial(CosineAnnealingLR, T_max=OUTER_STEPS),
        clip_norm=1.0,
        learn=learn,
        generator=torch.Generator().manual_seed(_SEED),
    )
    return trained.learner


def learned_schedule(family: Family, steps: int, lr: float, momentum: float) -> MetaLearner:
    """Return the schedule, learned from the best heavy ball on."""
    start = landscapes.origin(family.dimension, DTYPE)
    learner = maml(landscapes.loss, start, rule=schedule(steps, lr, momentum), steps=steps, query_loss=log_loss)
    return train(learner, family, 0.03, ("rule.*",))


def learned_map(family: Family, steps: int, lr: float, rates: Literal["element", "step"] = "element") -> MetaLearner:
    """Return MAML: a learned start, and SGD from there at learned rates.

    Args:
        lr: where the rates start, the best of SGD.
        rates: "element", one for each coordinate (Meta-SGD); "step", one for each inner step (as in MAML++).
    """
    start = landscapes.origin(family.dimension, DTYPE)
    rule = learned_rates(start, lr, **({"steps": steps, "per": "tensor"} if rates == "step" else {}))
    learner = maml(landscapes.loss, start, rule=rule, steps=steps, query_loss=log_loss)
    return train(learner, family, 0.01)


def scores(learner: MetaLearner, problems: Problems, meta: Meta | None = None) -> Tensor:
    """Return (problems,) scores of a learner after the steps that it was trained for."""
    run = over_tasks(partial(_adapted, learner.adapt, learner.meta if meta is None else meta))
    return problems.score(run(Stream(problems.problem, problems.noise))["x"])


def _adapted(adapt: Callable[..., Params], meta: Meta, support: Data) -> Params:
    return adapt(meta, support)


def test_scores(learner: MetaLearner, family: Family) -> Tensor:
    return scores(learner, problems_of.test(family, learner.adapt.steps))

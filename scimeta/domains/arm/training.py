"""Meta-training over past payloads: what an arm must know for one gradient step to land on the next one's mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta
from scimeta.core.tasks import Params, Task, select_tasks
from scimeta.core.train import meta_train
from scimeta.domains.arm.features import Movement, features, link_directions
from scimeta.domains.arm.learned import Labelled, posterior, start, weighing_learner
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import calibrate, link_roots
from scimeta.domains.arm.payloads import given_mass
from scimeta.domains.arm.residuals import unsaid
from scimeta.domains.arm.urdf import Arm
from scimeta.domains.arm.weigher import Weigher, check_same
from scimeta.domains.arm.weighing import PayloadPrior

_FEWEST = 10  # labelled trials
_CHECKED, _EVERY = 40, 5  # labelled trials from which on every fifth is kept back to check the intervals
_LINK_ERROR, _COM_ERROR = 0.05, 0.010  # what links are expected to differ by from what their maker says; m


class Training(NamedTuple):
    """How the outer loop runs; arguments of `meta_train`."""

    steps: int = 600
    tasks_per_step: int = 50
    lr: float = 0.06
    compile: bool = False


def learn_to_weigh(
    arm: Arm,
    log: Log,
    mass: Tensor,
    com: Tensor | None = None,
    *,
    prior: PayloadPrior,
    movement: Literal["any", "fixed"] = "any",
    training: Training = Training(),  # noqa: B008
    checkpoint: str | PathLike[str] | None = None,
    generator: torch.Generator,
) -> Weigher:
    """Meta-train on past payloads, so that one gradient step lands on the next one's mass.

    Args:
        arm: as its maker describes it.
        log: (trials, samples, ...) of the past trials.
        mass: (trials,) kg; nan where unknown, 0 for an empty hand.
        com: (trials, 3) m, centres of mass in the last link's frame; nan where unknown.
        prior: what a payload can be, as from `payload_prior`.
        movement: "fixed" if every trial made the same test movement, sampled at the same instants, and every future one
            will: the step is then plain, by a learned matrix. "any": it uses each trial's own curvature.
        training: steps and rates; a fixed movement takes as many steps again for the matrix.
        checkpoint: a file to go on from after a kill; a fixed movement keeps a second one, `<name>.matrix.safetensors`.
        generator: of the start and of the order of the trials, on the CPU.
    Raises: ValueError for a log that `check_log` refuses, shapes that do not fit, fewer than 10 labelled trials, masses
        below zero, or movements that differ though said to be fixed.
    """
    log = check_log(arm, log)
    known, mask, learned, kept = _labels(log, mass, com)
    if movement not in ("any", "fixed"):
        raise ValueError(f'learn_to_weigh: movement is "any" or "fixed"; got {movement!r}')
    fixed = movement == "fixed"
    test = Movement(*(part[learned].mean(0) for part in log[1:4])) if fixed else None
    if test is not None:
        check_same(test.q, log.q)
    chain, factor = arm.chain, torch.linalg.cholesky(prior.covariance)
    directions = link_directions(chain, log, link_roots(chain, _LINK_ERROR, _COM_ERROR))
    past = select_tasks(Labelled(features(chain, log, prior.mean, factor, directions, test), known, mask), learned)
    scale = _misfit(past)
    carried = given_mass(prior, torch.as_tensor(mass, dtype=torch.float64)[learned])
    classical = calibrate(arm, select_tasks(log, learned), *carried, link_error=_LINK_ERROR, com_error=_COM_ERROR)
    params = start(directions.shape[1], scale, log.q.shape[1] if fixed else None, generator)
    # Links that are far off (a hand that the URDF lacks) would take many steps from where their maker says.
    off = (classical.chain.inertial - chain.inertial).flatten()
    params["links"] = torch.linalg.solve(directions.mT @ directions, directions.mT @ off)

    def train(params: Params, frame: Tensor | None, learn: Sequence[str], lr: float, file: Path | None) -> _Outcome:
        learner = weighing_learner(params, scale, factor, prior.mean, trials=len(learned), frame=frame)
        return _train(learner, past, learn, training._replace(lr=lr), file, generator)

    file = None if checkpoint is None else Path(checkpoint)
    done = train(params, None, [f"init.{name}" for name in params if name != "payload"], training.lr, file)
    frame = None
    if fixed:
        # The curvature of what was learned, frozen into coordinates, is where the step's matrix starts.
        frame = _frame(done.meta.init, scale, past)
        file = None if file is None else file.with_name(f"{file.stem}.matrix.safetensors")
        done = train(done.meta.init, frame, ["rule.*", "init.payload", "init.offset"], training.lr / 100, file)
    none = log.q.new_zeros(0)
    weigher = Weigher(arm, prior, test, done.meta, scale, directions, frame, none, classical, done.losses)
    if not len(kept):
        return weigher
    with unsaid():  # they are what is usual
        found = weigher.weigh(select_tasks(log, kept))
    assert found.residual is not None  # a weigher always tells it
    mass, sd = found.mass, found.covariance[:, 0, 0].sqrt()
    table = torch.stack((kept.to(mass), known[kept, 0], mass, sd), 1)
    misses = ((mass - known[kept, 0]) / sd).abs().sort().values
    return replace(weigher, misses=misses, kept=table, residuals=found.residual.size.sort().values)


class _Outcome(NamedTuple):
    meta: Meta
    losses: Tensor


def _train(
    learner: MetaLearner,
    past: Labelled,
    learn: Sequence[str],
    training: Training,
    checkpoint: Path | None,
    generator: torch.Generator,
) -> _Outcome:
    trials = len(past.known)

    def draw(number: int, generator: torch.Generator) -> Task:
        chosen = select_tasks(past, torch.randint(trials, (number,), generator=generator))
        return Task(chosen.features, chosen)

    trained = meta_train(
        learner,
        draw,
        steps=training.steps,
        tasks_per_step=min(training.tasks_per_step, trials),
        lr=training.lr,
        scheduler=partial(OneCycleLR, max_lr=training.lr, total_steps=training.steps),
        learn=learn,
        checkpoint=checkpoint,
        checkpoint_every=50,
        compile=training.compile,
        generator=generator,
    )
    return _Outcome(trained.meta, torch.tensor(trained.history["loss"].to_list(), dtype=torch.float64))


def _labels(log: Log, mass: Tensor, com: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is known of the payloads and its mask, (trials, 4) each; trials to learn from and trials to keep back."""
    trials = log.q.shape[0]
    mass = torch.as_tensor(mass, dtype=torch.float64)
    com = (
        torch.full((trials, 3), math.nan, dtype=torch.float64)
        if com is None
        else torch.as_tensor(com, dtype=torch.float64)
    )
    if log.q.ndim != 3 or mass.shape != (trials,) or com.shape != (trials, 3):
        raise ValueError(
            "learn_to_weigh: log is (trials, samples, n), mass (trials,) and com (trials, 3); got "
            f"{tuple(log.q.shape)}, {tuple(mass.shape)} and {tuple(com.shape)}"
        )
    labelled = mass.isfinite()
    if (mass < 0).any() or mass.isinf().any() or com.isinf().any():
        raise ValueError("learn_to_weigh: a mass is 0 kg or more, nan where unknown; so is a centre of mass")
    if labelled.sum() < _FEWEST:
        raise ValueError(
            f"learn_to_weigh: {int(labelled.sum())} trials have a mass; weigh the payloads of {_FEWEST} or more"
        )
    first = torch.where(mass[:, None] == 0, 0.0, mass[:, None] * com)
    known = torch.cat((mass[:, None], first), -1)
    back = torch.zeros(trials, dtype=torch.bool)
    if labelled.sum() >= _CHECKED:
        back[labelled.nonzero()[::_EVERY, 0]] = True
    mask = known.isfinite().to(known)
    return known.nan_to_num(), mask, (~back).nonzero()[:, 0], back.nonzero()[:, 0]


def _misfit(data: Labelled) -> Tensor:
    """(n,) Nm, root mean square torque that the nominal arm does not explain by any payload."""
    regressor = data.features.payload.flatten(1, 2)
    residual = (data.features.torque - data.features.expected).flatten(1)[..., None]
    curvature = regressor.mT @ regressor + 1e-3 * torch.eye(10, dtype=regressor.dtype)
    left = residual - regressor @ torch.linalg.solve(curvature, regressor.mT @ residual)
    return left.view_as(data.features.torque).square().mean((0, 1)).sqrt().clamp(min=1e-3)


def _frame(params: Params, scale: Tensor, data: Labelled) -> Tensor:
    """(10, 10) coordinates in which the loss of the fixed movement starts with unit curvature."""
    factor = posterior(params, scale, select_tasks(data, 0).features).factor
    return torch.linalg.inv(factor).mT

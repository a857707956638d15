"""What other meta-learners and networks make of the same trials: each learns from the past and returns masses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from arm_problems import ARM, STEPS, Trials, prior
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from scimeta import Task, anil, meta_train
from scimeta.core.rules import learned_rates
from scimeta.core.tasks import Params, over_tasks, select_tasks
from scimeta.domains.arm import Log, Weigher, nominal, payload_regressor, predict
from scimeta.domains.arm.dynamics import PLAUSIBLE
from scimeta.domains.arm.features import Features, features
from scimeta.domains.arm.learned import Labelled, posterior, start

Weigh = Callable[[Log], Tensor]
"""Logs of trials -> their masses, (trials,) kg."""

_RATE = 0.1  # of the outer loop, the best of .003, .03, .1 and .3
_FRICTION = ["init.payload", "init.offset", "init.coulomb", "init.viscous", "init.links", "rule.*"]


def regression_net(past: Trials, after_map: bool = False) -> Weigh:
    """The mean of three networks, of those tried the best.

    They read the payload's curvature J'J and, joint by joint, its gradient J'r, J the payload's regressor in units of
    the prior and r the torques beyond the nominal arm's. On raw logs (q, qd, qdd, tau) the error is three times that.

    Args:
        past: trials to learn from.
        after_map: whether they read the payload that the nominal arm makes most probable instead: no direct regression.
    """
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def net(seed: int) -> MLPRegressor:
        return MLPRegressor(hidden_layer_sizes=(100, 100), alpha=1.0, solver="lbfgs", max_iter=500, random_state=seed)

    inputs = partial(_inputs, after_map=after_map)
    nets = [make_pipeline(StandardScaler(), net(seed)) for seed in range(3)]
    for one in nets:
        one.fit(inputs(past.log), past.mass.numpy())
    return lambda log: torch.as_tensor(np.mean([one.predict(inputs(log)) for one in nets], 0))


def _inputs(log: Log, after_map: bool) -> np.ndarray:
    mean, covariance = prior()
    regressor = payload_regressor(ARM.chain, *log[1:4]) @ torch.linalg.cholesky(covariance)
    beyond = log.tau - predict(nominal(ARM), log, mean.expand(len(log.q), 10))
    gradient = (regressor * beyond[..., None]).sum(1)  # (trials, n, 10)
    curvature = regressor.flatten(1, 2).mT @ regressor.flatten(1, 2) + torch.eye(10)
    if after_map:
        found = torch.linalg.solve(curvature, gradient.sum(1)[..., None])[..., 0]
        return torch.cat((found, gradient.sum(1), curvature.diagonal(dim1=-2, dim2=-1).log()), -1).numpy()
    rows, columns = torch.triu_indices(10, 10)
    return torch.cat((gradient.flatten(1), curvature[:, rows, columns]), -1).numpy()


def step_rates(
    past: Trials, weigher: Weigher, per: Literal["tensor", "element"], slow: Literal["friction", "all"]
) -> Weigh:
    """MAML with one learned rate, or Meta-SGD with one an element, for one gradient step on a fixed test movement.

    The payload is in units of the prior along its principal axes. The outer loss is the squared error of the mass; with
    the posterior beside it, as in ours, these rules came out at 1.3 kg or did not converge.

    Args:
        past: trials to learn from.
        weigher: ours, for the scale of the torques and the combinations of link errors that the movement shows.
        per: "tensor" for one rate, "element" for Meta-SGD.
        slow: what the outer loop learns of the robot: "friction" for Coulomb, viscous, offsets and links, with the
            plain sum of squared torques as inner loss; or "all" that ours learns, with its noise and networks.
    """
    mean, covariance = prior()
    factor, scale = torch.linalg.cholesky(covariance), weigher.scale
    read = partial(_features, weigher=weigher, factor=factor)
    params = start(weigher.directions.shape[1], scale, past.log.q.shape[1], torch.Generator().manual_seed(0))
    if slow == "friction":
        params["torque noise"] = torch.full_like(scale, math.log(0.3))
        params["acceleration noise"] = torch.full_like(params["acceleration noise"], -20.0)
    one = torch.ones(len(past.mass), 1, dtype=torch.float64)
    data = Labelled(read(past.log), past.mass[:, None], one)
    frame = _axes(covariance, factor)
    curvature = posterior(params, scale, select_tasks(data.features, 0)).factor
    curvature = frame.mT @ curvature @ curvature.mT @ frame
    # Rates of one start at the longest stable step; for Meta-SGD on "friction" each element's own served better.
    top = torch.linalg.eigvalsh(curvature)[-1]
    frame = frame * (curvature.diagonal() if per == "element" and slow == "friction" else top).rsqrt()

    def mass(payload: Tensor) -> Tensor:
        return mean[0] + factor[0] @ (frame @ payload)

    def loss(params: Params, data: Features) -> Tensor:
        found, z = posterior(params, scale, data), frame @ params["payload"]
        return ((found.residuals - found.jacobian @ z).square().sum() + z.square().sum()) / 2

    def query_loss(params: Params, data: Labelled) -> Tensor:
        return (mass(params["payload"]) - data.known[0]) ** 2 / covariance[0, 0]

    rule = learned_rates({"payload": params["payload"]}, 1.0, per=per)
    learner = anil(loss, params, fast=("payload",), rule=rule, query_loss=query_loss)

    def draw(number: int, generator: torch.Generator) -> Task:
        chosen = select_tasks(data, torch.randint(len(past.mass), (number,), generator=generator))
        return Task(chosen.features, chosen)

    trained = meta_train(
        learner,
        draw,
        steps=STEPS,
        tasks_per_step=min(50, len(past.mass)),
        lr=_RATE,
        scheduler=partial(OneCycleLR, max_lr=_RATE, total_steps=STEPS),
        learn=_FRICTION if slow == "friction" else ("*",),
        generator=torch.Generator().manual_seed(0),
    )
    return lambda log: over_tasks(lambda trial: mass(learner.adapt(trained.meta, trial)["payload"]))(read(log))


def _features(log: Log, weigher: Weigher, factor: Tensor) -> Features:
    return features(ARM.chain, log, prior().mean, factor, weigher.directions, weigher.movement)


def _axes(covariance: Tensor, factor: Tensor) -> Tensor:
    """(10, 10) the prior's principal axes, of parameters in plausible units, in coordinates of `factor`."""
    scale = PLAUSIBLE.to(covariance)
    values, vectors = torch.linalg.eigh(covariance / scale / scale[:, None])
    return torch.linalg.solve_triangular(factor, scale[:, None] * vectors * values.clamp(min=0).sqrt(), upper=False)

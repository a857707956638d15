"""Weighing that is learned from past payloads: slow parameters describe the robot, one gradient step the payload.

The nominal arm's torques are linear in the payload and in the errors of the links. What the motors show instead of
them is learned joint by joint: friction and a gain, and on top a small network, together

    rigid torque = u - load(speed) |u|,    u = gain x measured torque - friction(speed),

so that the rigid torque stays linear in the payload whatever the gears do with the load. The loss of a trial is the
negative log posterior of its payload: half the squared residuals over their covariance (motor noise, and noise of the
accelerations times the arm's inertia), half the squared distance from the prior. One gradient step on it lands on the
payload, and training differentiates through that step.

Where a test movement is always the same, so is the curvature of the loss: a plain step times one learned matrix does.
Where movements differ, no constant matrix can: the step is taken in coordinates that the trial's own curvature whitens,
in which a gradient step of length one is a Gauss-Newton step.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scimeta.core.learners import MetaLearner, anil
from scimeta.core.rules import Rule, learned_rates, preconditioned
from scimeta.core.tasks import Data, Params
from scimeta.domains.arm.features import Features

_HIDDEN = 8  # units of each joint's network


class Labelled(NamedTuple):
    """A trial with what is known of its payload.

    Attributes:
        features: of the trial.
        known: (..., 4) mass, kg, and first moments, kg m; any finite number where unknown.
        mask: (..., 4) one where known, else zero.
    """

    features: Features
    known: Tensor
    mask: Tensor


class Posterior(NamedTuple):
    """Of the payload z in units of the prior: residuals r - J z over their covariance, and curvature J'J + 1."""

    jacobian: Tensor  # (samples n, 10)
    residuals: Tensor  # (samples n,)
    factor: Tensor  # (10, 10) lower Cholesky factor of the curvature
    constant: Tensor  # what else the negative log likelihood holds


def start(directions: int, scale: Tensor, samples: int | None, generator: torch.Generator) -> Params:
    """Parameters of an arm that is as its maker says, without friction.

    Args:
        directions: number of link errors.
        scale: (n,) Nm, how far the nominal arm's torques are off: the unit of the friction.
        samples: of a fixed test movement, whose torques may be off by something of their own each; None for any.
        generator: of the network's first layer; its last starts at zero.
    """
    joints = len(scale)
    none = torch.zeros(joints, dtype=torch.float64)
    weights = torch.randn(joints, 2, _HIDDEN, generator=generator, dtype=torch.float64) / 2
    return {
        "payload": torch.zeros(10, dtype=torch.float64),
        "links": torch.zeros(directions, dtype=torch.float64),
        "offset": torch.zeros(joints if samples is None else (samples, joints), dtype=torch.float64),
        "gain": none,
        "coulomb": none.clone(),
        "viscous": none.clone(),
        "load": none.clone(),
        "stiction speed": torch.full_like(none, math.log(0.02)),
        "hidden.weight": weights,
        "hidden.bias": torch.zeros(joints, _HIDDEN, dtype=torch.float64),
        "output.weight": torch.zeros(joints, _HIDDEN, 2, dtype=torch.float64),
        "torque noise": (0.3 * scale).log(),
        "acceleration noise": torch.tensor(math.log(0.05), dtype=torch.float64),
    }


def rigid_torque(params: Params, scale: Tensor, speed: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
    """(samples, n) twice: rigid-body torques that measured torques stand for, and their derivative by the measured."""
    sliding = torch.tanh(speed / params["stiction speed"].exp())
    inputs = torch.stack((sliding, speed), -1)  # (samples, n, 2)
    hidden = torch.tanh((inputs[..., None] * params["hidden.weight"]).sum(-2) + params["hidden.bias"])
    more_friction, more_load = (hidden[..., None] * params["output.weight"]).sum(-2).unbind(-1)
    friction = scale * (params["coulomb"] * sliding + params["viscous"] * speed + more_friction)
    gain = 1 + 0.05 * params["gain"]
    load = 0.1 * (params["load"] * sliding + more_load)
    passed = gain * torque - friction
    return passed - load * passed.abs(), gain * (1 - load * passed.sign())


def posterior(params: Params, scale: Tensor, data: Features) -> Posterior:
    """Of one trial's payload."""
    rigid, slope = rigid_torque(params, scale, data.speed, data.torque)
    residuals = rigid - data.expected - data.links @ params["links"] - scale * params["offset"]
    # By the gain alone: the load's share would make the curvature depend on the torques, for a twentieth of the noise.
    covariance = torch.diag((params["torque noise"].exp() * (1 + 0.05 * params["gain"])) ** 2)
    covariance = covariance + (2 * params["acceleration noise"]).exp() * data.inertia @ data.inertia.mT
    noise = torch.linalg.cholesky(covariance)
    both = torch.cat((data.payload, residuals[..., None]), -1)
    white = torch.linalg.solve_triangular(noise, both, upper=False).flatten(0, 1)
    jacobian, residuals = white[:, :-1], white[:, -1]
    curvature = jacobian.mT @ jacobian + torch.eye(jacobian.shape[-1], dtype=white.dtype, device=white.device)
    factor = torch.linalg.cholesky(curvature)
    constant = _log_diagonal(noise) - slope.log().sum() + _log_diagonal(factor)
    return Posterior(jacobian, residuals, factor, constant)


def in_prior(found: Posterior, payload: Tensor, frame: Tensor | None) -> Tensor:
    """(10,) the payload in units of the prior, from the coordinates that the step is taken in.

    These are a fixed frame's (10, 10), or None for those that the trial's own curvature whitens.
    """
    if frame is not None:
        return frame @ payload
    return torch.linalg.solve_triangular(found.factor.mT, payload[:, None], upper=True)[:, 0]


def weighing_learner(
    params: Params,
    scale: Tensor,
    prior_factor: Tensor,
    prior_mean: Tensor,
    *,
    trials: int,
    frame: Tensor | None = None,
    rule: Literal["matrix", "element", "tensor"] = "matrix",
) -> MetaLearner:
    """The meta-learner whose one step weighs a payload.

    Args:
        params: of `start`.
        scale: (n,) Nm, as there.
        prior_factor, prior_mean: (10, 10) and (10,), the payload's prior.
        trials: number of them that are learned from; the more, the less the parameters' own priors weigh.
        frame: (10, 10) for a fixed test movement: its coordinates, and a rule with learned parameters. None for any
            movement: the trial's own curvature.
        rule: with a frame, what is learned: a "matrix", or a step size per "element" (Meta-SGD) or one ("tensor").
    """

    def payload(params: Params, data: Features) -> tuple[Tensor, Posterior]:
        found = posterior(params, scale, data)
        return in_prior(found, params["payload"], frame), found

    def loss(params: Params, data: Data) -> Tensor:
        z, found = payload(params, data)
        return _cost(found, z)

    def query_loss(params: Params, data: Data) -> Tensor:
        z, found = payload(params, data.features)
        own = sum((params[name] ** 2).sum() for name in ("links", "offset", "gain"))
        own = own + 10 * (params["output.weight"] ** 2).sum()
        missed = data.mask * (prior_mean[:4] + prior_factor[:4] @ z - data.known)
        return (_cost(found, z) + found.constant + _surprise(missed, found, data.mask) + own / (2 * trials)) / z.numel()

    def _surprise(missed: Tensor, found: Posterior, mask: Tensor) -> Tensor:
        """Negative log density of what is known of the payload, given the torques."""
        root = torch.linalg.solve_triangular(found.factor, prior_factor[:4].mT, upper=False)  # (10, 4)
        covariance = mask * (root.mT @ root) * mask[:, None] + torch.diag(1 - mask)
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, missed[:, None], upper=False)
        return (white * white).sum() / 2 + _log_diagonal(factor)

    return anil(loss, params, fast=("payload",), lr=1.0, rule=_rule(params, frame, rule), query_loss=query_loss)


def _rule(params: Params, frame: Tensor | None, kind: Literal["matrix", "element", "tensor"]) -> Rule | None:
    if frame is None:
        return None
    fast = {"payload": params["payload"]}
    return preconditioned(fast, 1.0) if kind == "matrix" else learned_rates(fast, 1.0, per=kind)


def _cost(found: Posterior, z: Tensor) -> Tensor:
    missed = found.residuals - found.jacobian @ z
    return ((missed * missed).sum() + (z * z).sum()) / 2


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum()

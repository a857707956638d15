"""Weighs a payload by linear regression: least squares, with a prior, sample by sample, or against a tare run.

What a payload adds to the joint torques is linear in its ten inertial parameters phi (see `dynamics`),

    tau - prediction without payload = Y(q, qd, qdd) phi + errors,

so every estimate here is one batched solve. Trials are the leading axes; nothing loops over them.

Reference: Atkeson, An and Hollerbach, Int. J. Robotics Research 5(3), 101 (1986).
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import PLAUSIBLE, payload_regressor
from scimeta.domains.arm.features import condition_number
from scimeta.domains.arm.log import Log, as_tensors, check_shapes
from scimeta.domains.arm.model import ArmModel, Noise, predict, torque_covariance, whiten
from scimeta.domains.arm.payloads import box
from scimeta.domains.arm.residuals import (
    Residual,
    ResidualTest,
    against_itself,
    against_noise,
    by_both,
    degrees_of_freedom,
    warn_above_noise,
)
from scimeta.domains.arm.weighing import PayloadPrior, Weighing

# Condition number of the scaled regressor above which a trial tells too little: movements of 10 samples or more have
# 130 to 1000, of 5 samples up to 5000. An arm at rest is told by its positions: noise keeps its number at 3000 or more.
UNOBSERVABLE = 1e4
_STILL = 0.01  # rad or m
_CENTRE = (0.0, 0.0, 0.12)


def weigh_least_squares(
    model: ArmModel,
    log: Log,
    unknowns: Literal[1, 4, 10] = 10,
    com: Tensor | None = None,
    test: ResidualTest = ResidualTest(),  # noqa: B008
) -> Weighing:
    """The payload that leaves the least squared torque, all joints and samples alike.

    Args:
        model: the arm, nominal or calibrated.
        log: of the trials.
        unknowns: 10; 4 for mass and first moments of a payload without moments of inertia about the frame's origin;
            1 for the mass of a point at `com`.
        com: (..., 3) m, centre of mass for one unknown; .12 m along the last link's z axis by default.
        test: when a residual is far above noise, see `residuals.against_itself`.
    Returns: parameters and their covariance, with the noise estimated from what is left over; `condition` is that of
        the unknowns. Trials that do not show them come with a warning; directions without any trace are left at zero.
        Trials whose residual is no noise come with a warning and without intervals.
    Raises: ValueError if the log does not fit the arm, or for another number of unknowns.
    """
    if unknowns not in (1, 4, 10):
        raise ValueError(f"weigh_least_squares: unknowns is 1, 4 or 10; got {unknowns}")
    log = as_tensors(log)
    regressor, residual = (rows.flatten(-3, -2) for rows in payload_rows(model, log))
    basis = torch.diag(PLAUSIBLE.to(regressor))[:, :unknowns]
    if unknowns == 1:
        centre = regressor.new_tensor(_CENTRE) if com is None else com.to(regressor)
        basis = box(torch.ones_like(centre[..., 0]), centre, torch.zeros_like(centre))[..., None]
    left, size, right = torch.linalg.svd(regressor @ basis, full_matrices=False)
    floor = (1e-10 * size[..., :1]).clamp(min=1e-100)
    inverse = torch.where(size > floor, 1 / size, 0.0)
    parameters = (basis @ (right.mT @ (inverse[..., None] * (left.mT @ residual))))[..., 0]
    root = basis @ (right.mT / size.maximum(floor)[..., None, :])  # (..., 10, unknowns)
    over = residual[..., 0] - (regressor @ parameters[..., None])[..., 0]
    variance = over.square().sum(-1) / max(over.shape[-1] - unknowns, 1)
    condition = size[..., 0] / torch.where(size[..., -1] > floor[..., 0], size[..., -1], 0.0)
    warn_unobservable(log, condition, unknowns)
    left_over = over.unflatten(-1, log.q.shape[-2:])
    fit = against_itself(left_over, regressor @ basis, log.qd, log.qdd, test)
    warn_above_noise(fit)
    return Weighing(parameters, variance[..., None, None] * (root @ root.mT), condition, None, fit)


def weigh_map(
    model: ArmModel,
    log: Log,
    prior: PayloadPrior,
    noise: Noise = Noise(),  # noqa: B008
    test: ResidualTest = ResidualTest(),  # noqa: B008
) -> Weighing:
    """The most probable payload under a Gaussian prior, with Gaussian errors of torques and of accelerations.

    Args:
        model: the arm, nominal or calibrated.
        log: of the trials.
        prior: of the payloads, as from `payload_prior`; its covariance may be singular.
        noise: of the log; an error in an acceleration reaches all torques through the mass matrix, taken with the
            prior mean as payload (solving again with what was found gains 1 %).
        test: when a residual is far above the noise.
    Returns: posterior mean and covariance; trials that show too little come with a warning, trials whose residual is
        far above the noise with one and without intervals.
    Raises: ValueError if the log does not fit the arm, or the prior is no Gaussian's.
    """
    log, root = as_tensors(log), _prior_root(prior)
    information, shift, condition = _information(model, log, prior.mean, root, noise)
    warn_unobservable(log, condition, 10)
    information = information.sum(-3)
    found, covariance = _posterior(information, shift.sum(-2), prior.mean, root)
    fit = _residual(model, log, found, information, noise, test)
    warn_above_noise(fit)
    return Weighing(found, covariance, condition, None, fit)


def recursive_least_squares(
    model: ArmModel,
    log: Log,
    prior: PayloadPrior,
    noise: Noise = Noise(),  # noqa: B008
) -> Weighing:
    """What is known after each sample: Bayesian recursive least squares; the last is `weigh_map`.

    In the information form a sample adds its normal equations to those before it, so that all samples of all trials
    are one running sum.

    Args: as of `weigh_map`.
    Returns: parameters (..., samples, 10), covariance (..., samples, 10, 10), condition (...,) of the whole trial.
    Raises: as `weigh_map`.
    """
    log, root = as_tensors(log), _prior_root(prior)
    information, shift, condition = _information(model, log, prior.mean, root, noise)
    warn_unobservable(log, condition, 10)
    return Weighing(*_posterior(information.cumsum(-3), shift.cumsum(-2), prior.mean, root), condition)


class Tared(NamedTuple):
    """What to weigh with after a tare run: `weigh_map(tared.model, tared.log, prior, tared.noise)`."""

    model: ArmModel
    log: Log
    noise: Noise


def tare(
    model: ArmModel,
    loaded: Log,
    unloaded: Log,
    noise: Noise = Noise(),  # noqa: B008
    same_motion: bool = True,
) -> Tared:
    """The torques of a payload alone: those of a movement less those of the same movement without payload.

    What the links weigh, friction and offsets drop out, whether a model knows them or not.

    Args:
        model: the arm; if the motion is the same, its geometry alone is used.
        loaded, unloaded: logs of the same samples of the same movement.
        noise: of each log.
        same_motion: True where the arm followed the movement alike both times; the mean of the two motions is then
            used. False where the payload pulled it off: the model then corrects for what the motions differ, and must
            know the links that well.
    Returns: a model, a log and a noise for the weighing functions.
    Raises: ValueError for logs that differ in shape, or in motion by .01 rad (root mean square) where it is to be the
        same.
    """
    loaded, unloaded = as_tensors(loaded), as_tensors(unloaded)
    if loaded.q.shape != unloaded.q.shape:
        raise ValueError(
            f"tare: the logs must hold the same samples; got q {tuple(loaded.q.shape)} and {tuple(unloaded.q.shape)}"
        )
    torque = loaded.tau - unloaded.tau
    twice = 2**0.5 * noise.torque
    if not same_motion:
        log = loaded._replace(tau=torque + predict(model, unloaded))
        return Tared(model, log, Noise(twice, 2**0.5 * noise.acceleration))
    apart = (loaded.q - unloaded.q).square().mean((-2, -1)).sqrt().max().item()
    if not apart < 0.01:
        raise ValueError(
            f"tare: the motions lie {apart:.3g} rad apart (root mean square, worst trial), more than .01; repeat the "
            "movement, or pass same_motion=False with a calibrated model"
        )
    q, qd, qdd = ((a + b) / 2 for a, b in zip(loaded[1:4], unloaded[1:4], strict=True))
    chain = model.chain._replace(inertial=torch.zeros_like(model.chain.inertial))
    none = torch.zeros_like(model.offset)
    weightless = model._replace(chain=chain, coulomb=none, viscous=none, offset=none)
    return Tared(weightless, Log(loaded.t, q, qd, qdd, torque), Noise(twice, noise.acceleration / 2**0.5))


def cramer_rao(
    model: ArmModel,
    log: Log,
    noise: Noise = Noise(),  # noqa: B008
    unknowns: Literal[1, 4, 10] = 10,
    payload: Tensor | None = None,
) -> Tensor:
    """(...,) kg: no unbiased estimate of the mass has a smaller standard deviation, if model and noise are right.

    Infinite where the trial does not show the mass.

    Args:
        model: the true arm, or what is known of it.
        log: its motion is used, without noise if it is known.
        noise: of the log.
        unknowns: 10; 4 for mass and first moments; 1 for the mass, the rest being known.
        payload: (..., 10) true payload, which is part of the mass matrix; none by default.
    Reference: Rao, Linear Statistical Inference and its Applications (1973), section 5a.
    """
    if unknowns not in (1, 4, 10):
        raise ValueError(f"cramer_rao: unknowns is 1, 4 or 10; got {unknowns}")
    log = as_tensors(log)
    regressor, _ = payload_rows(model, log)
    carried = None if payload is None else payload[..., None, :]
    (regressor,) = whiten(torque_covariance(model.chain, log.q, noise, carried), regressor)
    regressor = (regressor.flatten(-3, -2) * PLAUSIBLE.to(regressor))[..., :unknowns]
    _, size, right = torch.linalg.svd(regressor, full_matrices=False)
    share = right[..., 0].square()  # of each direction in the mass
    hidden = size <= 1e-12 * size[..., :1]
    variance = torch.where(hidden, torch.where(share > 1e-12, torch.inf, 0.0), share / size.square())
    return PLAUSIBLE[0].to(regressor) * variance.sum(-1).sqrt()


def payload_rows(model: ArmModel, log: Log) -> tuple[Tensor, Tensor]:
    """The linear equations of a weighing: residual torques = regressor @ parameters + errors.

    Returns: regressor (..., samples, n, 10); torques beyond the model's without payload, (..., samples, n, 1).
    Raises: ValueError if the log does not fit the model or holds what is not finite.
    """
    check_shapes(log, len(model.offset))
    regressor = payload_regressor(model.chain, log.q, log.qd, log.qdd)
    residual = (log.tau - predict(model, log))[..., None]
    if not residual.isfinite().all():
        raise ValueError("log: q, qd, qdd or tau is not finite; check_log says where")
    return regressor, residual


def _information(model: ArmModel, log: Log, mean: Tensor, root: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """Normal equations of each sample, (..., samples, k, k) and (..., samples, k), in k units of the prior; condition.

    The unknowns are z of parameters = mean + root z, a priori independent with unit variance.
    """
    regressor, residual = payload_rows(model, log)
    condition = condition_number(regressor)
    covariance = torque_covariance(model.chain, log.q, noise, mean)
    columns, left = whiten(covariance, regressor @ root, residual - regressor @ mean[:, None])
    return columns.mT @ columns, (columns.mT @ left)[..., 0], condition


def _residual(
    model: ArmModel, log: Log, found: Tensor, information: Tensor, noise: Noise, test: ResidualTest
) -> Residual:
    """Of the payloads found (..., 10), by the noise with them: a heavier one makes that of the accelerations louder."""
    left = log.tau - predict(model, log, found)
    regressor = payload_regressor(model.chain, log.q, log.qd, log.qdd).flatten(-3, -2)
    (white,) = whiten(torque_covariance(model.chain, log.q, noise, found[..., None, :]), left[..., None])
    stated = against_noise(white.square().sum((-3, -2, -1)), degrees_of_freedom(left, information), test)
    return by_both(stated, against_itself(left, regressor, log.qd, log.qdd, test), test)


def _posterior(information: Tensor, shift: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    posterior = torch.linalg.inv(information + torch.eye(root.shape[-1], dtype=root.dtype, device=root.device))
    return mean + (root @ (posterior @ shift[..., None]))[..., 0], root @ posterior @ root.mT


def _prior_root(prior: PayloadPrior) -> Tensor:
    """(10, 10) matrix whose product with its transpose is the covariance."""
    mean, covariance = prior
    if mean.shape != (10,) or covariance.shape != (10, 10):
        raise ValueError(
            f"the prior's mean must be (10,) and its covariance (10, 10); got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}; payload_prior makes both"
        )
    scale = PLAUSIBLE.to(covariance)
    scaled = covariance / scale[:, None] / scale
    if not (mean.isfinite().all() and scaled.isfinite().all() and torch.allclose(scaled, scaled.mT)):
        raise ValueError("the prior's mean and covariance must be finite, and the covariance symmetric")
    values, vectors = torch.linalg.eigh(scaled)
    if values[0] < -1e-9 * values[-1].abs():
        raise ValueError(
            f"the prior's covariance must have no negative eigenvalue; got {values[0].item():.3g} (scaled)"
        )
    return scale[:, None] * vectors * values.clamp(min=0.0).sqrt()


def warn_unobservable(log: Log, condition: Tensor, unknowns: int) -> None:
    """Warn once of trials that never moved, or that do not show the unknowns apart; one unknown needs no movement."""
    still = (log.q.amax(-2) - log.q.amin(-2)).amax(-1) < _STILL
    blind = ((condition > UNOBSERVABLE) | still) & (unknowns > 1)
    if not blind.any():
        return
    which = blind.reshape(-1).nonzero()[:, 0].tolist()
    names = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
    trials = f"trial {names}" if len(which) == 1 else f"trials {names} ({len(which)} of {blind.numel()})"
    what = "never moved" if still[blind].all() else "moved too little, or in too few joints"
    worst = condition[blind].max().item()
    warnings.warn(
        f"{trials} {what}: {unknowns} parameters cannot be told apart, they are unobservable (condition number "
        f"{worst:.3g}); mass and centre of mass rest on the prior or on noise",
        stacklevel=3,
    )

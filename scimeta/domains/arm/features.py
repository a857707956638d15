"""What a log says about payload and links, worked out once per trial: the model's torques are linear in it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import (
    PLAUSIBLE,
    Chain,
    inverse_dynamics,
    link_regressor,
    mass_matrix,
    payload_regressor,
)
from scimeta.domains.arm.log import Log


class Features(NamedTuple):
    """One trial, or many with a leading axis.

    Attributes:
        payload: (..., samples, n, 10) torques by the payload, in units of the prior: zero mean, unit covariance.
        links: (..., samples, n, directions) torques by the errors of the links, in units of their prior.
        expected: (..., samples, n) Nm, torques of the nominal arm with the payload that the prior expects.
        inertia: (..., samples, n, n) kg m^2, joint-space inertia with that payload.
        speed: (..., samples, n) joint velocities, rad/s.
        torque: (..., samples, n) measured torques, Nm.
    """

    payload: Tensor
    links: Tensor
    expected: Tensor
    inertia: Tensor
    speed: Tensor
    torque: Tensor


class Movement(NamedTuple):
    """A fixed test movement, as the mean of many: (samples, n) positions rad, velocities 1/s, accelerations 1/s^2."""

    q: Tensor
    qd: Tensor
    qdd: Tensor


def features(
    chain: Chain,
    log: Log,
    mean: Tensor,
    factor: Tensor,
    directions: Tensor | None = None,
    movement: Movement | None = None,
    calibrated: Chain | None = None,
) -> Features:
    """What the learned model reads off a log.

    Args:
        chain: the arm.
        log: one trial or many.
        mean: (10,) payload about which the torques are taken.
        factor: (10, 10) Cholesky factor of the payload's prior covariance.
        directions: (10 n, directions) of the link errors; none by default.
        movement: the fixed test movement that the log follows, so that all its trials have the same payload regressor
            and inertia, which a fixed matrix needs; by default each trial has its own.
        calibrated: the arm whose torques are expected, where its links are known better. The inertia, which only
            weighs the residuals, stays the nominal arm's, as in the training.
    """
    q, qd, qdd = log[1:4] if movement is None else (part.expand_as(log.q) for part in movement)
    regressor = payload_regressor(chain, q, qd, qdd) @ factor
    if directions is None:
        links = log.q.new_zeros(*log.q.shape, 0)
    else:
        links = link_regressor(chain, log.q, log.qd, log.qdd).flatten(-2) @ directions
    expected = inverse_dynamics(calibrated or chain, log.q, log.qd, log.qdd, mean)
    return Features(regressor, links, expected, mass_matrix(chain, q, mean), log.qd, log.tau)


def condition_number(regressor: Tensor) -> Tensor:
    """(...,) of a payload regressor (..., samples, n, 10) with its columns scaled to 2 kg, .2 kg m and .02 kg m^2."""
    scaled = (regressor * PLAUSIBLE.to(regressor)).flatten(-3, -2)
    squares = torch.linalg.eigvalsh(scaled.mT @ scaled)
    return (squares[..., -1] / squares[..., 0].clamp(min=1e-12 * squares[..., -1].amax())).sqrt()


def link_directions(chain: Chain, log: Log, roots: Tensor, least: float = 1e-3) -> Tensor:
    """(10 n, directions) combinations of link errors that the logged movements can tell apart, each of unit variance.

    Args:
        chain: the nominal arm.
        log: many trials.
        roots: (n, 10, 10) of the covariance of each link's errors, as of `link_roots`.
        least: Nm; combinations whose torques stay below this, root mean square, are left out: no log shows them.
    Reference: Gautier, J. Robotic Systems 8(4), 485 (1991): base inertial parameters by singular values.
    """
    root = torch.block_diag(*roots)
    samples = [values.reshape(-1, values.shape[-1]) for values in (log.q, log.qd, log.qdd)]
    squares = torch.zeros_like(root)
    for q, qd, qdd in zip(*(values.split(4096) for values in samples), strict=True):
        columns = link_regressor(chain, q, qd, qdd).flatten(-2).flatten(0, 1) @ root
        squares = squares + columns.mT @ columns
    values, vectors = torch.linalg.eigh(squares / len(samples[0]))
    return root @ vectors[:, values > least**2].flip(-1)

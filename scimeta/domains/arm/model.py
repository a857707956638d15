"""What an arm's torques should be: rigid links, friction and offsets, nominal or calibrated on unloaded runs.

    tau = inverse dynamics(q, qd, qdd) + coulomb tanh(qd / friction speed) + viscous qd + offset

All of it but the friction speed is linear in its parameters, so a calibration is one Bayesian linear regression.

Reference: Swevers, Ganseman, Tukel, De Schutter, Van Brussel, IEEE Trans. Robotics and Automation 13(5), 730 (1997).
"""

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
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.urdf import Arm

# Samples whose regressor is held at once; one is about n * 10 n numbers.
_AT_ONCE = 4096


class Noise(NamedTuple):
    """Standard deviations of a log's independent errors.

    Attributes:
        torque: of a measured torque, Nm.
        acceleration: of a measured acceleration, 1/s^2; it reaches the torques through the mass matrix.
    """

    torque: float = 0.10
    acceleration: float = 0.05


class ArmModel(NamedTuple):
    """An arm with friction and offsets, for `predict`; `nominal` and `calibrate` make one.

    Attributes:
        chain: geometry and links.
        coulomb: (n,) friction that does not depend on speed, Nm.
        viscous: (n,) friction in proportion to speed, Nm s.
        offset: (n,) what the torque sensors read at zero torque, Nm.
        friction_speed: speed over which Coulomb friction turns, rad/s.
    """

    chain: Chain
    coulomb: Tensor
    viscous: Tensor
    offset: Tensor
    friction_speed: float = 0.02


def nominal(arm: Arm) -> ArmModel:
    """The arm as its URDF describes it, without friction."""
    none = torch.zeros_like(arm.lower)
    return ArmModel(arm.chain, none, none, none)


def predict(model: ArmModel, log: Log, payload: Tensor | None = None) -> Tensor:
    """(..., samples, n) torques, Nm, that a log's motion asks for with a payload (..., 10); its tau is not used."""
    carried = None if payload is None else payload[..., None, :]
    rigid = inverse_dynamics(model.chain, log.q, log.qd, log.qdd, carried)
    return rigid + model.coulomb * (log.qd / model.friction_speed).tanh() + model.viscous * log.qd + model.offset


def torque_covariance(chain: Chain, q: Tensor, noise: Noise, payload: Tensor | None = None) -> Tensor:
    """How far measured torques may lie from the right model's: torque^2 + acceleration^2 M(q) M(q)'.

    Args:
        chain: the arm.
        q: (..., n) positions, rad.
        noise: of the log.
        payload: (..., 10) a guess of what is carried, which is part of M; none by default.
    Returns: (..., n, n), Nm^2.
    """
    inertia = mass_matrix(chain, q, payload)
    white = noise.torque**2 * torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    return white + noise.acceleration**2 * (inertia @ inertia.mT)


def whiten(covariance: Tensor, *columns: Tensor) -> list[Tensor]:
    """Columns (..., n, k) times the inverse root of a covariance (..., n, n), which makes their errors independent."""
    root = torch.linalg.cholesky(covariance)
    return [torch.linalg.solve_triangular(root, column, upper=False) for column in columns]


def calibrate(
    arm: Arm,
    log: Log,
    payload: Tensor | None = None,
    uncertainty: Tensor | None = None,
    noise: Noise = Noise(),  # noqa: B008
    *,
    link_error: float = 0.05,
    com_error: float = 0.010,
    friction_error: float = 2.0,
    friction_speed: float = 0.02,
) -> ArmModel:
    """The arm's own links, friction and offsets from runs that carry nothing, or of whose payload something is known.

    A Bayesian linear regression (ridge) over the links' deviations from the URDF, Coulomb and viscous friction and
    torque offsets: 13 n unknowns, of which the data need not tell all apart.

    Args:
        arm: the arm as its maker describes it.
        log: one run or more (leading axes).
        payload: (..., 10) what each run carried; none by default.
        uncertainty: (..., 10, 10) covariance of what is not known of it (`given_mass`); none by default.
        noise: of the log.
        link_error: prior standard deviation of a link's mass and moments, as a share of them.
        com_error: prior standard deviation of each coordinate of a link's centre of mass, m.
        friction_error: prior standard deviation of Coulomb friction (Nm), viscous friction (Nm s) and offset (Nm) of
            each joint; where the data speak, it hardly matters.
        friction_speed: speed over which Coulomb friction turns, rad/s.
    Raises: ValueError as `check_log`, or for a prior that is not positive.
    """
    for name, value in (("link_error", link_error), ("com_error", com_error), ("friction_error", friction_error)):
        if not value > 0:
            raise ValueError(f"calibrate: {name} is a standard deviation above zero; got {value}")
    log = check_log(arm, log)
    model = nominal(arm)._replace(friction_speed=friction_speed)
    roots = link_roots(arm.chain, link_error, com_error)
    shape = (*log.t.shape[:-1], 10)
    carried = log.q.new_zeros(shape) if payload is None else payload.expand(shape)
    runs = Log(*(values.reshape(-1, *values.shape[log.t.ndim - 1 :]) for values in log))
    hidden = None if uncertainty is None else uncertainty.expand(*shape, 10).reshape(-1, 10, 10)
    normal, right = _normal_equations(model, runs, roots, friction_error, noise, carried.reshape(-1, 10), hidden)
    unknowns = torch.linalg.solve(normal + torch.eye(len(right), dtype=right.dtype), right)
    joints = len(arm.joints)
    deviation, friction = unknowns.split((10 * joints, 3 * joints))
    inertial = arm.chain.inertial + (roots @ deviation.reshape(joints, 10, 1))[..., 0]
    coulomb, viscous, offset = friction_error * friction.reshape(3, joints)
    return ArmModel(arm.chain._replace(inertial=inertial), coulomb, viscous, offset, friction_speed)


def _normal_equations(
    model: ArmModel,
    log: Log,
    roots: Tensor,
    friction_error: float,
    noise: Noise,
    payload: Tensor,
    uncertainty: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(13 n, 13 n) and (13 n,): of the unknowns in units of their prior; log (runs, samples, ...)."""
    joints = log.q.shape[-1]
    normal, right = log.q.new_zeros(13 * joints, 13 * joints), log.q.new_zeros(13 * joints)
    size = max(1, _AT_ONCE // log.t.shape[-1])
    pieces = [values.split(size) for values in (*log, payload)]
    pieces.append([None] * len(pieces[0]) if uncertainty is None else uncertainty.split(size))
    for *parts, held, hidden in zip(*pieces, strict=True):
        part = Log(*parts)
        links = torch.einsum("...jlp,lpk->...jlk", link_regressor(model.chain, *part[1:4]), roots).flatten(-2)
        friction = torch.stack(((part.qd / model.friction_speed).tanh(), part.qd, torch.ones_like(part.qd)), -1)
        own = torch.einsum("...jf,ij->...jfi", friction, torch.eye(joints, dtype=part.q.dtype)).flatten(-2)
        columns = torch.cat((links, friction_error * own), -1)  # (runs, samples, n, 13 n)
        left = (part.tau - predict(model, part, held))[..., None]
        unknown = payload_regressor(model.chain, *part[1:4])
        covariance = torque_covariance(model.chain, part.q, noise, held[:, None])
        columns, left, unknown = (rows.flatten(1, 2) for rows in whiten(covariance, columns, left, unknown))
        both = torch.cat((columns, left), -1)
        if hidden is not None:
            # What is not known of a payload is one more error of its run, correlated: it takes its share out.
            shared = unknown @ _root(hidden)
            share = torch.eye(shared.shape[-1], dtype=shared.dtype) + shared.mT @ shared
            both = both - shared @ torch.linalg.solve(share, shared.mT @ both)
        both = (columns.mT @ both).sum(0)
        normal, right = normal + both[:, :-1], right + both[:, -1]
    return normal, right


def _root(covariance: Tensor) -> Tensor:
    """(..., 10, 10) matrix whose product with its transpose is the covariance, which may be singular."""
    scale = PLAUSIBLE.to(covariance)
    values, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
    return scale[:, None] * vectors * values.clamp(min=0.0).sqrt()[..., None, :]


def link_roots(chain: Chain, link_error: float, com_error: float) -> Tensor:
    """(n, 10, 10) roots of the covariance of the links' parameters about what their maker says.

    Args:
        chain: the nominal arm.
        link_error: standard deviation of a link's mass and moments, as a share of them.
        com_error: of each coordinate of a link's centre of mass, m.
    """
    inertial = chain.inertial
    mass = inertial[:, 0].clamp(min=1e-12)
    com = inertial[:, 1:4] / mass[:, None]
    one = torch.eye(3, dtype=inertial.dtype)
    # Steiner's term of the moments per kg, and its derivatives by the centre of mass.
    steiner = (com**2).sum(-1)[:, None, None] * one - com[:, :, None] * com[:, None, :]
    crossed = one[:, :, None] * com[:, None, None, :]  # (n, k, 3, 3): e_k com'
    bent = 2 * com[:, :, None, None] * one - crossed - crossed.mT
    moments = inertial[:, 4:] - mass[:, None] * _six(steiner)
    diagonal = moments[:, [0, 3, 5]].clamp(min=0).sqrt()
    spread = link_error * _six(diagonal[:, :, None] * diagonal[:, None, :])
    roots = torch.zeros(len(inertial), 10, 10, dtype=inertial.dtype)
    roots[:, 0, 0], roots[:, 1:4, 0] = link_error * mass, link_error * inertial[:, 1:4]
    roots[:, 4:, 0] = link_error * mass[:, None] * _six(steiner)
    roots[:, 1:4, 1:4] = com_error * mass[:, None, None] * one
    roots[:, 4:, 1:4] = com_error * mass[:, None, None] * _six(bent).mT
    roots[:, 4:, 4:] = torch.diag_embed(spread)
    return roots


def _six(matrix: Tensor) -> Tensor:
    """(..., 6) elements xx, xy, xz, yy, yz, zz of symmetric matrices (..., 3, 3)."""
    return matrix.flatten(-2)[..., [0, 1, 2, 4, 5, 8]]

"""Rigid-body dynamics of a serial arm, batched and differentiable: joint torques and what they are linear in.

The torques that a motion asks for are linear in the ten inertial parameters of each body,

    phi = (m, m cx, m cy, m cz, Ixx, Ixy, Ixz, Iyy, Iyz, Izz)    in kg, kg m and kg m^2,

with the moments about the origin of the body's own frame, not about its centre of mass. A payload is one more body,
fixed to the last link, with its parameters in that link's frame.

Everything is computed in the base's axes. There the recursive Newton-Euler algorithm becomes running sums along the
chain, of velocities outwards and of forces inwards, so that only the rotations are multiplied one joint at a time.
Inside, the samples are the last axis: long contiguous rows, which is what makes a batch fast.

Reference: Atkeson, An and Hollerbach, Int. J. Robotics Research 5(3), 101 (1986); Featherstone, Rigid Body Dynamics
Algorithms, Springer (2008).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GRAVITY = 9.81  # m/s^2
_DOWN = torch.tensor([0.0, 0.0, -GRAVITY], dtype=torch.float64)
INERTIAL = ("m", "m cx", "m cy", "m cz", "Ixx", "Ixy", "Ixz", "Iyy", "Iyz", "Izz")
# What makes the ten of a payload comparable: kg, kg m, kg m^2.
PLAUSIBLE = torch.tensor([2.0, *3 * [0.2], *6 * [0.02]], dtype=torch.float64)
# Where the six moments stand in a symmetric 3 x 3 matrix.
_MOMENTS = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


class Chain(NamedTuple):
    """A serial arm of n joints as tensors; `read_urdf` makes one.

    Attributes:
        rotation, translation: (n, 3, 3) and (n, 3) m, pose of each joint's frame in the previous link's, at zero.
        axis: (n, 3) unit axis of each joint, in its own frame.
        slides: (n,) one for a prismatic joint, else zero.
        inertial: (n, 10) inertial parameters of each link, about its joint's frame.
        gravity: (3,) acceleration of free fall in the base's axes, m/s^2; down its z axis by default, up it,
            [0, 0, 9.81], for an arm hung from a ceiling.
    """

    rotation: Tensor
    translation: Tensor
    axis: Tensor
    slides: Tensor
    inertial: Tensor
    gravity: Tensor = _DOWN


class _Motion(NamedTuple):
    """Poses of the links and how they move, in the base's axes; the samples are the last axis."""

    rotation: Tensor  # (n, 3, 3, samples) link's frame to the base's
    origin: Tensor  # (n, 3, samples)
    axis: Tensor  # (n, 3, samples)
    spin: Tensor  # (n, 3, samples) angular velocity
    spin_rate: Tensor  # (n, 3, samples) its derivative
    pull: Tensor  # (n, 3, samples) acceleration of the origin, less gravity


def inverse_dynamics(chain: Chain, q: Tensor, qd: Tensor, qdd: Tensor, payload: Tensor | None = None) -> Tensor:
    """Joint torques that a motion asks for, by the recursive Newton-Euler algorithm.

    Args:
        chain: the arm.
        q, qd, qdd: (..., n) joint positions (rad; m where prismatic), velocities (1/s) and accelerations (1/s^2).
        payload: (..., 10) inertial parameters of a body fixed to the last link, in that link's frame; none by default.
    Returns: (..., n) torques, Nm (forces, N, where prismatic), without friction.
    Reference: Featherstone (2008), chapter 5.
    """
    shape = torch.broadcast_shapes(q.shape, qd.shape, qdd.shape, () if payload is None else (*payload.shape[:-1], 1))
    motion = _motion(chain, q.expand(shape), qd.expand(shape), qdd.expand(shape))
    force, moment = _wrench(motion, _with_payload(chain, payload, shape))
    moment = moment + _cross(motion.origin, force)
    force, moment = _from_tip(force), _from_tip(moment)  # what each joint carries, about the base's origin
    torque = _dot(motion.axis, moment - _cross(motion.origin, force))
    if chain.slides.any():
        torque = torch.where(chain.slides[:, None] > 0, _dot(motion.axis, force), torque)
    return torque.movedim(0, -1).reshape(shape)


def link_regressor(chain: Chain, q: Tensor, qd: Tensor, qdd: Tensor) -> Tensor:
    """What the joint torques are linear in: torque = sum over links of regressor @ inertial parameters.

    Args: as of `inverse_dynamics`; `chain.inertial` is not used.
    Returns: (..., n, n, 10), joint by link by parameter; zero where the link lies nearer to the base than the joint.
    Reference: Atkeson, An and Hollerbach (1986).
    """
    motion = _motion(chain, q, qd, qdd)
    wrench = _wrench_regressor(motion)  # (samples, links, 6, 10)
    links = range(q.shape[-1])
    parts = [_joint_twists(chain, motion, link) @ wrench[:, link] for link in links]  # (samples, joints, 10)
    return torch.stack(parts, -2).reshape(*q.shape, len(links), 10)


def payload_regressor(chain: Chain, q: Tensor, qd: Tensor, qdd: Tensor) -> Tensor:
    """(..., n, 10): what a payload adds to the torques is this times its inertial parameters; see `link_regressor`."""
    motion = _motion(chain, q, qd, qdd)
    last = _Motion(*(part[-1:] for part in motion))
    twists = _joint_twists(chain, motion, q.shape[-1] - 1)
    return (twists @ _wrench_regressor(last)[:, 0]).reshape(*q.shape, 10)


def mass_matrix(chain: Chain, q: Tensor, payload: Tensor | None = None) -> Tensor:
    """How the torques change with the accelerations, by composite rigid bodies.

    Args: as of `inverse_dynamics`.
    Returns: (..., n, n) joint-space inertia, kg m^2, symmetric.
    Reference: Featherstone (2008), chapter 6.
    """
    shape = q.shape if payload is None else torch.broadcast_shapes(q.shape, (*payload.shape[:-1], 1))
    rotation, origin, axis = _poses(chain, _samples_last(q.expand(shape)))
    inertial = _with_payload(chain, payload, shape)
    # Of all that each joint carries, about the base's origin: mass, first moments, moments of inertia.
    mass = inertial[:, :1]
    lever = _turn(rotation, inertial[:, 1:4])
    turned = torch.stack([_turn(rotation, column) for column in inertial[:, 4:][:, _MOMENTS].unbind(2)], 2)
    moments = torch.stack([_turn(rotation, row) for row in turned.unbind(1)], 1)
    first = lever + mass * origin
    eye = torch.eye(3, dtype=q.dtype, device=q.device)[..., None]
    away = origin[:, :, None] * (lever + mass * origin)[:, None] + lever[:, :, None] * origin[:, None]
    moments = moments + away.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None] * eye - away
    mass, first, moments = _from_tip(mass.expand(-1, -1, rotation.shape[-1])), _from_tip(first), _from_tip(moments)
    linear, angular = _cross(origin, axis), axis
    if chain.slides.any():
        slides = chain.slides[:, None, None] > 0
        linear, angular = torch.where(slides, axis, linear), axis * ~slides
    force = mass * linear + _cross(angular, first)
    moment = _turn(moments, angular) + _cross(first, linear)
    rows = (linear[:, None] * force + angular[:, None] * moment).sum(2)  # joint nearer to the base, joint beyond it
    whole = torch.where(
        torch.ones(len(rows), len(rows), device=q.device).triu()[..., None] > 0, rows, rows.transpose(0, 1)
    )
    return whole.movedim(-1, 0).reshape(*shape, shape[-1])


def tip_position(chain: Chain, q: Tensor, point: Tensor | None = None) -> Tensor:
    """(..., 3) m, position of a point of the last link (its frame's origin by default) in the base's axes."""
    rotation, origin, _ = _poses(chain, _samples_last(q))
    position = origin[-1]
    if point is not None:
        position = position + _turn(rotation[-1], point.expand(*q.shape[:-1], 3).reshape(-1, 3).T)
    return position.T.reshape(*q.shape[:-1], 3)


def _with_payload(chain: Chain, payload: Tensor | None, shape: torch.Size) -> Tensor:
    """(n, 10, 1 or samples) inertial parameters of the links, the last one with what it carries."""
    inertial = chain.inertial[..., None]
    if payload is None:
        return inertial
    carried = _samples_last(payload.expand(*shape[:-1], 10))
    return torch.cat((inertial[:-1].expand(-1, -1, carried.shape[-1]), (inertial[-1] + carried)[None]))


def _samples_last(values: Tensor) -> Tensor:
    """(..., n) as contiguous (n, samples)."""
    return values.reshape(-1, values.shape[-1]).T.contiguous()


def _poses(chain: Chain, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (n, 3, 3, samples), origins and axes (n, 3, samples) of the links; q (n, samples)."""
    # Rodrigues: the local rotation is (1 + K^2) + sin(q) K - cos(q) K^2 after the joint's own placement.
    cross = torch.linalg.cross(
        chain.axis[:, :, None], torch.eye(3, dtype=q.dtype, device=q.device).expand(len(q), 3, 3), dim=1
    )
    placed = torch.stack((chain.rotation @ cross, chain.rotation @ cross @ cross))[..., None]
    turned = (q * (1 - chain.slides[:, None]))[:, None, None]
    local = chain.rotation[..., None] + placed[1] + turned.sin() * placed[0] - turned.cos() * placed[1]
    rotations = [local[0]]
    for joint in range(1, len(q)):
        rotations.append(torch.stack([_turn(rotations[-1], local[joint, :, k]) for k in range(3)], 1))
    rotation = torch.stack(rotations)
    axis = _turn(rotation, chain.axis[..., None])
    outer = _turn(rotation[:-1], chain.translation[1:, :, None])
    step = torch.cat((chain.translation[:1, :, None].expand(1, 3, q.shape[-1]), outer))
    if chain.slides.any():
        step = step + axis * (q * chain.slides[:, None])[:, None]
    return rotation, step.cumsum(0), axis


def _motion(chain: Chain, q: Tensor, qd: Tensor, qdd: Tensor) -> _Motion:
    q, qd, qdd = (_samples_last(values) for values in (q, qd, qdd))
    rotation, origin, axis = _poses(chain, q)
    turns, slides = 1 - chain.slides[:, None], chain.slides[:, None]
    own = axis * (qd * turns)[:, None]
    spin = own.cumsum(0)
    before = spin - own
    spin_rate = (axis * (qdd * turns)[:, None] + _cross(before, own)).cumsum(0)
    step = torch.diff(origin, dim=0, prepend=torch.zeros_like(origin[:1]))
    rate_before = torch.cat((torch.zeros_like(spin_rate[:1]), spin_rate[:-1]))
    pull = _cross(rate_before, step) + _cross(before, _cross(before, step))
    if chain.slides.any():
        pull = pull + axis * (qdd * slides)[:, None] + 2 * _cross(before, axis * (qd * slides)[:, None])
    return _Motion(rotation, origin, axis, spin, spin_rate, pull.cumsum(0) - chain.gravity.to(q)[:, None])


def _wrench(motion: _Motion, inertial: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, samples) twice: force and moment that each link needs, about its origin; inertial (n, 10, samples)."""
    rotation, spin, rate, pull = motion.rotation, motion.spin, motion.spin_rate, motion.pull
    first = _turn(rotation, inertial[:, 1:4])
    force = inertial[:, :1] * pull + _cross(rate, first) + _cross(spin, _cross(spin, first))
    back = rotation.transpose(1, 2)
    turning, turning_rate = _turn(back, spin), _turn(back, rate)
    inertia = inertial[:, 4:][:, _MOMENTS]
    moment = _turn(inertia, turning_rate) + _cross(turning, _turn(inertia, turning))
    return force, _turn(rotation, moment) + _cross(first, pull)


def _wrench_regressor(motion: _Motion) -> Tensor:
    """(samples, links, 6, 10): force and moment that each link needs, about its origin, in the base's axes."""
    rotation = motion.rotation.movedim(-1, 0)
    spin, rate, pull = (
        _turn(motion.rotation.transpose(1, 2), vector).movedim(-1, 0)
        for vector in (motion.spin, motion.spin_rate, motion.pull)
    )
    turning = _skew(spin)
    lever = _skew(rate) + turning @ turning
    none = torch.zeros_like(lever)
    force = torch.cat((pull[..., None], lever, none, none), -1)
    moments = _moments_times(rate) + turning @ _moments_times(spin)
    moment = torch.cat((torch.zeros_like(pull[..., None]), -_skew(pull), moments), -1)
    return torch.cat((rotation @ force, rotation @ moment), -2)


def _joint_twists(chain: Chain, motion: _Motion, link: int) -> Tensor:
    """(samples, joints, 6): velocities of a link's origin, linear and angular, as each joint moves; zero beyond it."""
    linear = _cross(motion.axis, motion.origin[link] - motion.origin)
    angular = motion.axis
    if chain.slides.any():
        slides = chain.slides[:, None, None] > 0
        linear, angular = torch.where(slides, motion.axis, linear), angular * ~slides
    inwards = torch.arange(len(motion.axis), device=motion.axis.device) <= link
    return (torch.cat((linear, angular), 1) * inwards[:, None, None]).movedim(-1, 0)


def _moments_times(vector: Tensor) -> Tensor:
    """(..., 3, 6): times the six moments gives inertia matrix times the vector."""
    x, y, z = vector.unbind(-1)
    none = torch.zeros_like(x)
    rows = ((x, y, z, none, none, none), (none, x, none, y, z, none), (none, none, x, none, y, z))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _skew(vector: Tensor) -> Tensor:
    """(..., 3, 3): times a vector gives the cross product."""
    x, y, z = vector.unbind(-1)
    none = torch.zeros_like(x)
    rows = ((none, -z, y), (z, none, -x), (-y, x, none))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _turn(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., 3, 3, samples) times (..., 3, samples), by columns: no product of this size is worth a matrix multiply."""
    x, y, z = vector.unsqueeze(-3).unbind(-2)
    first, second, third = matrix.unbind(-2)
    return torch.addcmul(torch.addcmul(first * x, second, y), third, z)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Of (..., 3, samples)."""
    a1, a2, a3 = a.unbind(-2)
    b1, b2, b3 = b.unbind(-2)
    return torch.stack((a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1), -2)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-2)


def _from_tip(vectors: Tensor) -> Tensor:
    """Running sums from the last link to the first."""
    return vectors.flip(0).cumsum(0).flip(0)

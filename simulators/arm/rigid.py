"""Rigid-body algorithms for a serial chain, in NumPy, over all leading axes at once."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from simulators.arm.payload import Payload
from simulators.arm.urdf import Chain


def inverse_dynamics(
    chain: Chain, q: ndarray, qd: ndarray, qdd: ndarray, payload: Payload | ndarray | None = None
) -> ndarray:
    """Return the joint torques M(q) qdd + C(q, qd) qd + g(q) of the rigid bodies, by recursive Newton-Euler.

    Args:
        chain: the arm.
        q: (..., n) positions, rad (m where prismatic).
        qd: (..., n) velocities, rad/s.
        qdd: (..., n) accelerations, rad/s^2.
        payload: a body on the tip link, or the parameters (..., 10) of one for each configuration; none if None.
    Returns: (..., n) torques, Nm (forces, N, where prismatic).

    Raises:
        ValueError: a last axis that is not n (10 for the payload), shapes that do not broadcast.
    Reference: Featherstone, Rigid Body Dynamics Algorithms, Springer 2008, ch. 5.

    >>> from simulators.arm.urdf import read_chain
    >>> at_rest = np.zeros(7)
    >>> inverse_dynamics(read_chain("iiwa"), at_rest + 0.5, at_rest, at_rest).shape
    (7,)
    """
    return _newton_euler(chain, q, qd, qdd, _parameters(payload), chain.gravity)


def payload_regressor(chain: Chain, q: ndarray, qd: ndarray, qdd: ndarray) -> ndarray:
    """Return (..., n, 10), the torques of a unit of each of the payload's ten parameters: tau_payload = Y phi."""
    q, qd, qdd = (np.asarray(x, dtype=float)[..., None, :] for x in (q, qd, qdd))
    return np.swapaxes(_newton_euler(chain, q, qd, qdd, np.eye(10), chain.gravity, links=False), -1, -2)


def mass_matrix(chain: Chain, q: ndarray, payload: Payload | ndarray | None = None) -> ndarray:
    """Return (..., n, n), the joint-space inertia M(q), kg m^2.

    Args: as :func:`inverse_dynamics`.
    """
    q = np.asarray(q, dtype=float)[..., None, :]
    phi = _parameters(payload)
    phi = phi if phi is None else phi[..., None, :]
    columns = np.eye(len(chain.names))
    return _newton_euler(chain, q, np.zeros_like(q), columns, phi, np.zeros(3))


def forward_dynamics(
    chain: Chain, q: ndarray, qd: ndarray, tau: ndarray, payload: Payload | ndarray | None = None
) -> ndarray:
    """Return (..., n), the accelerations M(q)^-1 (tau - C(q, qd) qd - g(q)) under torques tau (..., n).

    Args: as :func:`inverse_dynamics`.
    """
    bias = inverse_dynamics(chain, q, qd, np.zeros(len(chain.names)), payload)
    return np.linalg.solve(mass_matrix(chain, q, payload), (tau - bias)[..., None])[..., 0]


def forward_kinematics(chain: Chain, q: ndarray) -> ndarray:
    """Return (..., 3), the position of the tip's origin in the base's frame, m.

    >>> from simulators.arm.urdf import read_chain
    >>> forward_kinematics(read_chain("iiwa"), np.zeros(7)).round(3)
    array([0.   , 0.   , 1.261])
    """
    (q,), shape = _flat(chain, q)
    rotation, translation = _joints(chain, q)
    point = np.zeros((3, q.shape[1]))
    for i in reversed(range(len(chain.names))):
        point = translation[i] + _apply(rotation[i], point)
    return point.T.reshape(*shape, 3)


def _newton_euler(
    chain: Chain,
    q: ndarray,
    qd: ndarray,
    qdd: ndarray,
    payload: ndarray | None,
    gravity: ndarray,
    links: bool = True,
) -> ndarray:
    """Return torques (..., n). Inside, the configurations are the last axis: few, long NumPy operations."""
    n = len(chain.names)
    lead = () if payload is None else payload.shape[:-1]
    (q, qd, qdd), shape = _flat(chain, q, qd, qdd, lead=lead)
    rotation, translation = _joints(chain, q)
    count = q.shape[1]
    w, dw = np.zeros((3, count)), np.zeros((3, count))
    a = np.broadcast_to(-gravity[:, None], (3, count))
    wrenches = []
    for i in range(n):
        axis, back = chain.axis[i][:, None], rotation[i].swapaxes(0, 1)  # (3, 1); parent's axes -> own
        a = a + _cross(dw, translation[i]) + _cross(w, _cross(w, translation[i]))
        w, dw, a = _apply(back, w), _apply(back, dw), _apply(back, a)
        if chain.prismatic[i]:
            a = a + axis * qdd[i] + 2.0 * _cross(w, axis * qd[i])
        else:
            dw = dw + axis * qdd[i] + _cross(w, axis * qd[i])
            w = w + axis * qd[i]
        phi = chain.inertial[i][:, None] * float(links)  # (10, 1)
        if i == n - 1 and payload is not None:
            phi = phi + np.broadcast_to(payload, (*shape, 10)).reshape(-1, 10).T
        wrenches.append(_wrench(phi, w, dw, a))
    tau = np.empty((n, count))
    force, moment = np.zeros((3, count)), np.zeros((3, count))
    for i in reversed(range(n)):
        force, moment = force + wrenches[i][0], moment + wrenches[i][1]
        tau[i] = chain.axis[i] @ (force if chain.prismatic[i] else moment)
        force, moment = _apply(rotation[i], force), _apply(rotation[i], moment)
        moment = moment + _cross(translation[i], force)
    return tau.T.reshape(*shape, n)


def _flat(chain: Chain, *arrays: ndarray, lead: tuple[int, ...] = ()) -> tuple[list[ndarray], tuple[int, ...]]:
    """Return the arrays as (n, configurations), and the common leading shape."""
    n = len(chain.names)
    arrays = tuple(np.asarray(x, dtype=float) for x in arrays)
    for x in arrays:
        if x.ndim == 0 or x.shape[-1] != n:
            raise ValueError(f"the chain has {n} joints, so q, qd and qdd must be (..., {n}); got {x.shape}")
    shape = np.broadcast_shapes(lead, *(x.shape[:-1] for x in arrays))
    return [np.ascontiguousarray(np.broadcast_to(x, (*shape, n)).reshape(-1, n).T) for x in arrays], shape


def _parameters(payload: Payload | ndarray | None) -> ndarray | None:
    if payload is None:
        return None
    phi = payload.parameters if isinstance(payload, Payload) else np.asarray(payload, dtype=float)
    if phi.ndim == 0 or phi.shape[-1] != 10:
        raise ValueError(f"payload must be a Payload or its parameters (..., 10); got shape {phi.shape}")
    return phi


def _joints(chain: Chain, q: ndarray) -> tuple[list[ndarray], list[ndarray]]:
    """Return, for each joint, the child's axes (3, 3, configurations) and origin (3, ...) in the parent's frame."""
    rotations, translations = [], []
    for i, (x, y, z) in enumerate(chain.axis):
        fixed, at = chain.rotation[i], chain.translation[i][:, None]
        if chain.prismatic[i]:
            rotations.append(np.broadcast_to(fixed[:, :, None], (3, 3, q.shape[1])))
            translations.append(at + (fixed @ chain.axis[i])[:, None] * q[i])
            continue
        skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        square = fixed @ skew @ skew
        turning = (fixed @ skew)[:, :, None] * np.sin(q[i]) - square[:, :, None] * np.cos(q[i])  # Rodrigues
        rotations.append(turning + (fixed + square)[:, :, None])
        translations.append(np.broadcast_to(at, (3, q.shape[1])))
    return rotations, translations


def _wrench(phi: ndarray, w: ndarray, dw: ndarray, a: ndarray) -> tuple[ndarray, ndarray]:
    """Return the force and the moment about the frame's origin that move a body so, each (3, configurations)."""
    first = phi[1:4]
    force = phi[0] * a + _cross(dw, first) + _cross(w, _cross(w, first))
    moment = _inertia_times(phi, dw) + _cross(w, _inertia_times(phi, w)) + _cross(first, a)
    return force, moment


def _inertia_times(phi: ndarray, v: ndarray) -> ndarray:
    xx, xy, xz, yy, yz, zz = phi[4:]
    x, y, z = v
    return np.stack([xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z])


def _apply(rotation: ndarray, v: ndarray) -> ndarray:
    x, y, z = v
    return rotation[:, 0] * x + rotation[:, 1] * y + rotation[:, 2] * z


def _cross(u: ndarray, v: ndarray) -> ndarray:
    """Return u x v along the first axis; np.cross is several times slower."""
    return np.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])

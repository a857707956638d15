"""Control of an arm that knows its payload: torques that hold it to a reference, and a callable for a 1 kHz loop.

Three laws, from the one that leans least on the model to the one that leans most, with e = q_r - q the error:

    gravity_compensated    g(q) + kp e + kd de/dt
    feed_forward           M(q_r) qdd_r + C(q_r, qd_r) qd_r + g(q_r) + kp e + kd de/dt
    computed_torque        M(q) (qdd_r + kp e + kd de/dt) + C(q, qd) qd + g(q)

M, C and g are those of the arm with its payload, so a payload that was weighed corrects all three. They are pure
functions of tensors over any leading axes. `controller` turns one of them, or a law of your own, into a function of
NumPy arrays that answers in microseconds.

Reference: Siciliano, Sciavicco, Villani, Oriolo, Robotics (Springer 2009), chapter 8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.domains.arm.dynamics import Chain, inverse_dynamics, mass_matrix

Reference = tuple[Tensor, Tensor, Tensor]
"""Positions, velocities and accelerations wanted, each (..., n)."""
Law = Callable[[Tensor, Tensor, Reference], Tensor]
"""(q, qd, reference) -> torques, each (..., n)."""
Controller = Callable[[float, ndarray, ndarray], ndarray]
"""(time s, q (n,), qd (n,)) -> torques (n,)."""

_OFF_BETWEEN = 1e-4  # rad or m; how far a straight line between two instants may lie from the reference


def gravity(chain: Chain, q: Tensor, payload: Tensor | None = None) -> Tensor:
    """Torques that hold the arm still, (..., n) Nm, at q (..., n) with a payload (..., 10)."""
    still = torch.zeros_like(q)
    return inverse_dynamics(chain, q, still, still, payload)


def gains(
    chain: Chain,
    q: Tensor,
    payload: Tensor | None = None,
    frequency: float | Tensor = 20.0,
    damping: float | Tensor = 1.0,
    rotor: float | Tensor = 0.02,
) -> tuple[Tensor, Tensor]:
    """Stiffness and damping that give every way the arm can swing the same natural frequency.

    kp = frequency^2 (M(q) + rotor), kd = 2 damping frequency (M(q) + rotor). Matrices, because numbers joint by joint
    chatter where the arm is stretched: several joints then turn about one axis and share what little inertia is there.

    Args:
        chain: the arm.
        q: (..., n) positions, rad.
        payload: (..., 10) inertial parameters, in the last link's frame; none by default.
        frequency: rad/s, or (n,), one a joint. Twice the damping times the frequency, and times the rotor over the
            least inertia a link has about its joint, should stay below the control rate in 1/s.
        damping: ratio, or (n,); 1 is critical.
        rotor: kg m^2, or (n,): inertia of the motors seen from the joints, of which a URDF says nothing. Without it a
            wrist, whose links weigh little, would be too soft to carry what it does not know of.
    Returns: kp, Nm/rad, and kd, Nm s/rad, each (..., n, n).
    Raises: ValueError: a frequency that is not positive, a negative damping or rotor.
    """
    frequency, damping, rotor = (torch.as_tensor(x, dtype=q.dtype) for x in (frequency, damping, rotor))
    if not (frequency > 0).all() or not (damping >= 0).all() or not (rotor >= 0).all():
        raise ValueError(
            "gains: frequency must be positive, damping and rotor 0 or more; "
            f"got {frequency.tolist()}, {damping.tolist()} and {rotor.tolist()}"
        )
    inertia = mass_matrix(chain, q, payload) + torch.diag(rotor.expand(q.shape[-1]))
    return inertia * frequency**2, inertia * (2 * damping * frequency)


def gravity_compensated(
    chain: Chain,
    q: Tensor,
    qd: Tensor,
    reference: Reference,
    payload: Tensor | None = None,
    kp: float | Tensor | None = None,
    kd: float | Tensor | None = None,
) -> Tensor:
    """Torques of a spring and a damper towards the reference, on an arm made weightless.

    Args:
        chain: the arm.
        q, qd: (..., n) measured positions and velocities.
        reference: positions, velocities and accelerations wanted, each (..., n).
        payload: (..., 10) inertial parameters of what the last link carries, in its frame; none by default.
        kp, kd: Nm/rad and Nm s/rad: one number, one a joint (n,), or matrices (..., n, n); by default `gains` at the
            reference with the payload.
    Returns: (..., n) torques, Nm.
    Raises: TypeError, ValueError: arguments that are not tensors of these shapes.
    """
    _check("gravity_compensated", chain, q, qd, reference, payload)
    return gravity(chain, q, payload) + _spring(chain, q, qd, reference, payload, kp, kd)


def feed_forward(
    chain: Chain,
    q: Tensor,
    qd: Tensor,
    reference: Reference,
    payload: Tensor | None = None,
    kp: float | Tensor | None = None,
    kd: float | Tensor | None = None,
) -> Tensor:
    """Torques that the reference asks for, with a spring and a damper towards it.

    Arguments, returns and errors: as `gravity_compensated`. Friction that is known is best added at the reference's
    velocity, which does not chatter: ``feed_forward(...) + friction(reference[1])``.
    """
    _check("feed_forward", chain, q, qd, reference, payload)
    return inverse_dynamics(chain, *reference, payload) + _spring(chain, q, qd, reference, payload, kp, kd)


def computed_torque(
    chain: Chain,
    q: Tensor,
    qd: Tensor,
    reference: Reference,
    payload: Tensor | None = None,
    kp: float | Tensor = 400.0,
    kd: float | Tensor = 40.0,
) -> Tensor:
    """Torques that make the error obey d2e/dt2 + kd de/dt + kp e = 0 in every joint, if the model is right.

    Args: as `gravity_compensated`, but
        kp, kd: 1/s^2 and 1/s, in the same forms: frequency^2 and 2 damping frequency; critical at 20 rad/s by default.
    Returns: (..., n) torques, Nm.
    Raises: TypeError, ValueError: arguments that are not tensors of these shapes.
    """
    _check("computed_torque", chain, q, qd, reference, payload)
    wanted = reference[2] + _times(kp, reference[0] - q) + _times(kd, reference[1] - qd)
    return inverse_dynamics(chain, q, qd, wanted, payload)


def controller(
    law: Law,
    times: ndarray | Sequence[float],
    reference: tuple[ndarray, ndarray, ndarray] | Reference,
    effort: ndarray | Tensor | None = None,
) -> Controller:
    """Return a law as a function of NumPy arrays for one instant, ready for a loop of 1 kHz and more.

    The law and its derivatives by q and qd are tabulated along the reference in one batched call; what the controller
    computes is the law to first order in the errors, tau_r + A (q - q_r) + B (qd - qd_r). For `feed_forward` that is
    the law itself; for the others it is off by the square of the error, which a tracking arm keeps small: start the
    arm on the reference. Outside the times the arm is held at rest where the reference begins or ends; one that does
    not end at rest ends with a jerk.

    Args:
        law: (q, qd, reference) -> torques, tensors (samples, n), each sample by itself.
        times: (samples,) s, rising; between them the table is interpolated linearly.
        reference: positions, velocities and accelerations, each (samples, n).
        effort: (n,) torques that are never exceeded, Nm; no bound by default.
    Returns: (t, q, qd) -> torques (n,). It raises ValueError rather than pass on a torque that is not finite.
    Raises: ValueError: shapes that do not fit, times that do not rise, numbers that are not finite, or so few times
        that straight lines between them would leave the reference.

    >>> from functools import partial
    >>> pendulum = Chain(torch.eye(3)[None].double(), torch.zeros(1, 3).double(),
    ...                  torch.tensor([[0.0, 1, 0]]).double(), torch.zeros(1).double(),
    ...                  torch.tensor([[2.0, 1, 0, 0, 0, 0, 0, 0.5, 0, 0.5]]).double())
    >>> hold = controller(partial(gravity_compensated, pendulum), [0.0, 1.0], np.zeros((3, 2, 1)))
    >>> hold(0.5, np.zeros(1), np.zeros(1)).round(2)
    array([-9.81])
    """
    times, reference = _checked_reference(times, reference)
    table = _table(law, reference)  # (2 + samples, n + n + n + n n + n n)
    n = reference[0].shape[-1]
    first, last = times[0] - (times[1] - times[0]), times[-1] + (times[-1] - times[-2])
    knots = [float(first), *times.tolist(), float(last)]
    bound = np.full(n, np.inf) if effort is None else np.asarray(effort, dtype=float)
    if bound.shape != (n,) or not (bound > 0).all():
        raise ValueError(f"controller: effort must be ({n},) and positive, got {bound}")

    def torque(t: float, q: ndarray, qd: ndarray) -> ndarray:
        t = min(max(t, knots[0]), knots[-1])
        row = min(bisect_right(knots, t), len(knots) - 1)
        part = (t - knots[row - 1]) / (knots[row] - knots[row - 1])
        now = (1 - part) * table[row - 1] + part * table[row]
        by_q, by_qd = now[3 * n :].reshape(2, n, n)
        tau = now[:n] + by_q @ (q - now[n : 2 * n]) + by_qd @ (qd - now[2 * n : 3 * n])
        if tau.shape != (n,) or not np.isfinite(tau).all():
            raise ValueError(f"controller: at t = {t:g} s came q = {q} and qd = {qd}; expected ({n},) finite numbers")
        return np.minimum(np.maximum(tau, -bound), bound)

    return torque


def _table(law: Law, reference: Reference) -> ndarray:
    """(2 + samples, n + n + n + n n + n n): torque, q, qd and the law's derivatives by them, at rest at both ends."""
    rest = [torch.stack((x[0], x[-1])) * (1.0 if x is reference[0] else 0.0) for x in reference]
    wanted = tuple(torch.cat((end[:1], x, end[1:])) for x, end in zip(reference, rest, strict=True))
    q, qd = (x.clone().requires_grad_() for x in wanted[:2])
    with torch.enable_grad():
        tau = law(q, qd, wanted)
        if tau.shape != q.shape:
            raise ValueError(f"controller: the law gave {tuple(tau.shape)} for q {tuple(q.shape)}; expected the same")
        # Samples do not mix, so the gradient of a sum over them is each sample's own.
        rows = [
            torch.autograd.grad(tau[:, joint].sum(), (q, qd), retain_graph=True, materialize_grads=True)
            for joint in range(q.shape[-1])
        ]
    slopes = [torch.stack(by, 1).flatten(1) for by in zip(*rows, strict=True)]  # (samples, n n)
    table = torch.cat((tau.detach(), *wanted[:2], *slopes), 1).numpy()
    if not np.isfinite(table).all():
        raise ValueError("controller: the law gives torques that are not finite along the reference; check its numbers")
    return table


def _checked_reference(times: object, reference: object) -> tuple[ndarray, Reference]:
    times = np.asarray(times, dtype=float)
    shapes = [tuple(np.shape(x)) for x in reference]
    if len(shapes) != 3 or len(set(shapes)) != 1 or len(shapes[0]) != 2 or times.shape != shapes[0][:1]:
        raise ValueError(
            f"controller: expected times (samples,) and q, qd, qdd (samples, n); got {times.shape} and {shapes}"
        )
    parts = tuple(torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in reference)
    if not np.isfinite(times).all() or not all(x.isfinite().all() for x in parts):
        raise ValueError("controller: the reference holds numbers that are not finite; correct or drop those instants")
    step = np.diff(times)
    if not len(step) or not (step > 0).all():
        raise ValueError(
            f"controller: expected at least two times, all rising; got {np.array2string(times, threshold=9)}"
        )
    fastest = np.abs(parts[2].numpy()).max(-1)
    off = np.maximum(fastest[1:], fastest[:-1]) * step**2 / 8
    if off.max() > _OFF_BETWEEN:
        fine = (8 * _OFF_BETWEEN / fastest.max()) ** 0.5
        raise ValueError(
            f"controller: times up to {step.max():g} s apart are too coarse for accelerations of {fastest.max():g}; "
            f"give the reference every {fine:.1g} s or oftener"
        )
    return times, parts


def _spring(
    chain: Chain,
    q: Tensor,
    qd: Tensor,
    reference: Reference,
    payload: Tensor | None,
    kp: float | Tensor | None,
    kd: float | Tensor | None,
) -> Tensor:
    if kp is None or kd is None:
        stiffness, damper = gains(chain, reference[0], payload)
        kp, kd = stiffness if kp is None else kp, damper if kd is None else kd
    return _times(kp, reference[0] - q) + _times(kd, reference[1] - qd)


def _times(gain: float | Tensor, error: Tensor) -> Tensor:
    """A gain, one number, one a joint or a matrix, times an error (..., n)."""
    matrix = isinstance(gain, Tensor) and gain.ndim > 1
    return (gain @ error[..., None])[..., 0] if matrix else gain * error


def _check(name: str, chain: Chain, q: Tensor, qd: Tensor, reference: Reference, payload: Tensor | None) -> None:
    n = len(chain.axis)
    if len(reference) != 3:
        raise ValueError(f"{name}: reference must be (q, qd, qdd); got {len(reference)} parts")
    for what, value, size in (
        ("q", q, n),
        ("qd", qd, n),
        *zip(("reference q", "reference qd", "reference qdd"), reference, (n, n, n), strict=True),
        ("payload", payload, 10),
    ):
        if value is None and what == "payload":
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: {what} must be a tensor, got {type(value).__name__}; pass torch.as_tensor of it")
        if not value.ndim or value.shape[-1] != size:
            raise ValueError(f"{name}: {what} must be (..., {size}), got {tuple(value.shape)}")

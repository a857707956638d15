"""The log of an arm's movement, and what is checked before anything is inferred from it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.domains.arm.urdf import Arm

# Positions so far beyond the limits are no overshoot; one degree is 57 of the radians meant.
_BEYOND = 1.5


class Log(NamedTuple):
    """Samples of one movement, or of many with a leading axis of trials.

    Attributes:
        t: (..., samples) time, s; differences alone matter.
        q, qd, qdd: (..., samples, n) joint positions (rad; m where prismatic), velocities, accelerations.
        tau: (..., samples, n) measured joint torques, Nm (forces, N, where prismatic).
    """

    t: Tensor
    q: Tensor
    qd: Tensor
    qdd: Tensor
    tau: Tensor


def check_log(arm: Arm, log: Log) -> Log:
    """The log as float64 tensors, after a look at all that goes wrong in recording one.

    Args:
        arm: the arm that moved.
        log: tensors or arrays, shapes as of `Log`.
    Raises: ValueError that names the trial or joint: shapes that differ or do not fit the arm, numbers that are not
        finite, time that does not run forward, a torque channel that is zero throughout, positions far beyond the
        joint limits (degrees?).
    """
    log = as_tensors(log)
    check_shapes(log, len(arm.joints))
    for name, values in zip(Log._fields, log, strict=True):
        if not values.isfinite().all():
            where = "" if name == "t" else f" of joint {_first(arm, ~values.isfinite())!r}"
            raise ValueError(f"log: {name}{where} is not finite; remove those samples or fill the gap")
    back = log.t.diff(dim=-1) <= 0
    if back.any():
        sample = back.reshape(-1, back.shape[-1]).any(0).nonzero()[0].item()
        raise ValueError(f"log: t does not run forward after sample {sample} (the first is 0); sort it, drop repeats")
    silent = (log.tau == 0).all(dim=-2)
    if silent.any():
        joint = _first(arm, silent)
        raise ValueError(
            f"log: tau of joint {joint!r} is zero throughout; is its torque recorded, in the right column?"
        )
    _check_limits(arm, log.q)
    return log


def as_tensors(log: Log) -> Log:
    """The log in float64; arrays become tensors."""
    return Log(*(torch.as_tensor(values, dtype=torch.float64) for values in log))


def check_shapes(log: Log, joints: int) -> None:
    """Raise ValueError unless the log's arrays fit each other and an arm of so many joints."""
    shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in zip(Log._fields, log, strict=True))
    if log.q.ndim < 2 or not log.q.shape == log.qd.shape == log.qdd.shape == log.tau.shape:
        raise ValueError(f"log: q, qd, qdd and tau must be (..., samples, {joints}) alike; got {shapes}")
    if log.q.shape[-1] != joints:
        raise ValueError(f"log: the arm has {joints} joints, the log {log.q.shape[-1]}; got {shapes}")
    if log.t.shape != log.q.shape[:-1] or not log.t.numel():
        raise ValueError(f"log: t must be (..., samples) as q, with at least one sample; got {shapes}")


def _check_limits(arm: Arm, q: Tensor) -> None:
    middle, half = (arm.upper + arm.lower) / 2, (arm.upper - arm.lower) / 2
    off = ((q - middle).abs() > _BEYOND * half) & half.isfinite() & (half > 0)
    turning = arm.chain.slides == 0
    # A joint without limits may wind up, but not by a hundred turns.
    off = off | ((q.abs() > 200 * math.pi) & turning)
    if not off.any():
        return
    joint = arm.joints.index(_first(arm, off))
    low, high = q[..., joint].min().item(), q[..., joint].max().item()
    limits = f"[{arm.lower[joint].item():.3g}, {arm.upper[joint].item():.3g}]"
    found = f"log: q of joint {arm.joints[joint]!r} spans [{low:.3g}, {high:.3g}], its limits are {limits}"
    within = ((q * (math.pi / 180) - middle).abs() <= half * 1.05) | ~half.isfinite()
    if turning[joint] and within[..., turning].all():
        raise ValueError(f"{found} rad; these look like degrees: multiply q, qd and qdd by pi / 180")
    raise ValueError(f"{found}; check the order of the joints and the units (rad, m)")


def _first(arm: Arm, bad: Tensor) -> str:
    """Name of the first joint that is bad anywhere; bad (..., n)."""
    return arm.joints[int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])]

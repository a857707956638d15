"""The motion behind a log's noisy positions, velocities and accelerations."""

from __future__ import annotations

import math
import warnings

import torch

from scimeta.domains.arm.log import Log, check_shapes


def fourier_motion(
    log: Log, seconds: float, harmonics: int = 4, q: float = 2e-5, qd: float = 2e-3, qdd: float = 0.05
) -> Log:
    """The log with its motion replaced by the finite Fourier series that fits q, qd and qdd together.

    An acceleration's noise reaches the torques through the mass matrix; encoders are far better. Where a movement is
    known to be such a series (a test movement mostly is), the positions alone nearly settle the accelerations: the
    weighing's mass error falls by a third, and its noise is then `Noise(torque, acceleration=0.0)`.

    Args:
        log: of the trials; t may start anywhere.
        seconds: period of the movement, s.
        harmonics: number of them.
        q, qd, qdd: standard deviations of the log's errors, rad, rad/s, rad/s^2.
    Returns: the log with new q, qd, qdd. A warning tells if the positions are off the series by 10 times their error.
    Raises: ValueError for a log that does not fit, a number that is not positive, or too few samples.
    Reference: Swevers et al., IEEE Trans. Robotics and Automation 13(5), 730 (1997).
    """
    check_shapes(log, log.q.shape[-1])
    for name, value in (("seconds", seconds), ("harmonics", harmonics), ("q", q), ("qd", qd), ("qdd", qdd)):
        if not 0 < value < math.inf:
            raise ValueError(f"fourier_motion: {name} is a positive number; got {value}")
    if 3 * log.t.shape[-1] < 2 * harmonics + 1:
        raise ValueError(
            f"fourier_motion: {log.t.shape[-1]} samples cannot settle {harmonics} harmonics; it takes "
            f"{math.ceil((2 * harmonics + 1) / 3)} samples"
        )
    rate = 2 * math.pi / seconds * torch.arange(1, harmonics + 1, dtype=log.t.dtype, device=log.t.device)
    angle = (log.t - log.t[..., :1])[..., None] * rate
    sin, cos, one = angle.sin(), angle.cos(), torch.ones_like(angle[..., :1])
    none = torch.zeros_like(one)
    bases = (
        torch.cat((one, sin, cos), -1),
        torch.cat((none, rate * cos, -rate * sin), -1),
        torch.cat((none, -(rate**2) * sin, -(rate**2) * cos), -1),
    )  # each (..., samples, 1 + 2 harmonics)
    rows = torch.cat([basis / error for basis, error in zip(bases, (q, qd, qdd), strict=True)], -2)
    seen = torch.cat([values / error for values, error in zip((log.q, log.qd, log.qdd), (q, qd, qdd), strict=True)], -2)
    coefficients = torch.linalg.lstsq(rows, seen).solution
    motion = [basis @ coefficients for basis in bases]
    off = (motion[0] - log.q).square().mean((-2, -1)).sqrt().max().item()
    if not off < 10 * q:
        warnings.warn(
            f"fourier_motion: positions lie {off:.2g} rad off {harmonics} harmonics of {seconds:g} s; pass the right "
            "period or more harmonics, or weigh the log as it is",
            stacklevel=2,
        )
    return Log(log.t, *motion, log.tau)

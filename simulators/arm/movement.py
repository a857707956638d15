"""Movements of an arm as finite Fourier series: periodic, smooth, with exact derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from simulators.arm.rigid import mass_matrix, payload_regressor
from simulators.arm.urdf import Chain

_PLAUSIBLE = np.array([2.0, *3 * [0.2], *6 * [0.02]])  # kg, kg m, kg m^2: makes the regressor's columns comparable


@dataclass(frozen=True, eq=False)
class Movement:
    """q(t) = offset + sum over k of sine_k sin(2 pi k t / seconds) + cosine_k cos(2 pi k t / seconds), k = 1, 2, ...

    Attributes:
        offset: (n,) rad (m where the joint is prismatic).
        sine: (harmonics, n).
        cosine: (harmonics, n).
        seconds: period, s.

    Raises:
        ValueError: shapes that do not fit, a number that is not finite, a period that is not positive.
    """

    offset: ndarray
    sine: ndarray
    cosine: ndarray
    seconds: float

    def __post_init__(self) -> None:
        for name in ("offset", "sine", "cosine"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"Movement: {name} must be finite")
        if self.offset.ndim != 1 or self.sine.ndim != 2 or self.sine.shape[1:] != self.offset.shape:
            raise ValueError(
                f"Movement: offset must be (n,) and sine (harmonics, n); got {self.offset.shape} and {self.sine.shape}"
            )
        if self.sine.shape != self.cosine.shape:
            raise ValueError(f"Movement: sine is {self.sine.shape} and cosine {self.cosine.shape}; give them alike")
        if not 0.0 < self.seconds < np.inf:
            raise ValueError(f"Movement: seconds must be positive; got {self.seconds}")

    def at(self, t: ndarray | float) -> tuple[ndarray, ndarray, ndarray]:
        """Return positions, velocities and accelerations, each (..., n), at times t (...,) in s.

        >>> Movement([1.0], [[0.5]], [[0.0]], 2.0).at(0.0)[1].round(4)
        array([1.5708])
        """
        rate = 2.0 * np.pi / self.seconds * np.arange(1, len(self.sine) + 1)  # (harmonics,)
        angle = np.asarray(t, dtype=float)[..., None] * rate
        sin, cos = np.sin(angle), np.cos(angle)  # (..., harmonics)
        q = self.offset + sin @ self.sine + cos @ self.cosine
        qd = (rate * cos) @ self.sine - (rate * sin) @ self.cosine
        qdd = -(rate**2 * sin) @ self.sine - (rate**2 * cos) @ self.cosine
        return q, qd, qdd


def draw_movement(
    chain: Chain,
    rng: np.random.Generator,
    seconds: float = 4.0,
    harmonics: int = 4,
    speed: float = 1.2,
    acceleration: float = 4.0,
    fraction: float = 0.9,
) -> Movement:
    """Return a random movement that stays, at every instant, within the limits given and the chain's own.

    Coefficients are N(0, 1) / harmonic, scaled by one factor for all joints until the first of them meets a limit; the
    offset is uniform over what then stays inside. Between the instants looked at, the bound of Ehlich and Zeller
    holds: a trigonometric polynomial of degree K exceeds its largest of N even samples by at most 1 / cos(pi K / N).

    Args:
        chain: whose joint limits (and speeds, where lower) hold.
        rng: source of randomness.
        seconds: period, s.
        harmonics: number of them.
        speed: highest, rad/s (m/s where prismatic).
        acceleration: highest, rad/s^2.
        fraction: of each joint's range that may be used, about its middle.

    Raises:
        ValueError: a number outside its range.
    Reference: Ehlich, Zeller, Math. Z. 86, 41 (1964); Swevers et al., IEEE Trans. Robotics Automation 13, 730 (1997).

    >>> from simulators.arm.urdf import read_chain
    >>> movement = draw_movement(read_chain("iiwa"), np.random.default_rng(0))
    >>> movement.at(np.linspace(0.0, 4.0, 9))[0].shape
    (9, 7)
    """
    _check(seconds=seconds, harmonics=harmonics, speed=speed, acceleration=acceleration, fraction=fraction)
    size = (harmonics, len(chain.names))
    falling = 1.0 / np.arange(1, harmonics + 1)[:, None]
    shape = Movement(
        np.zeros(size[1]), rng.standard_normal(size) * falling, rng.standard_normal(size) * falling, seconds
    )
    instants = 128 * harmonics
    beyond = 1.0 / np.cos(np.pi * harmonics / instants)
    q, qd, qdd = shape.at(np.arange(instants) * (seconds / instants))
    middle, half = (q.max(0) + q.min(0)) / 2, (q.max(0) - q.min(0)) / 2 * beyond
    room = fraction * (chain.upper - chain.lower) / 2
    scale = np.minimum(room / half, np.minimum(speed, chain.speed) / (np.abs(qd).max(0) * beyond))
    scale = np.minimum(scale, acceleration / (np.abs(qdd).max(0) * beyond)).min()
    spare = np.maximum(room - scale * half, 0.0)
    offset = (chain.upper + chain.lower) / 2 - scale * middle + rng.uniform(-1.0, 1.0, size[1]) * spare
    return Movement(offset, scale * shape.sine, scale * shape.cosine, seconds)


def excitation(
    chain: Chain,
    rng: np.random.Generator,
    candidates: int = 50,
    seconds: float = 4.0,
    harmonics: int = 4,
    speed: float = 1.2,
    acceleration: float = 4.0,
    fraction: float = 0.9,
) -> Movement:
    """Return, of so many random movements, the one that shows a payload's mass best: the least :func:`mass_bound`.

    The least condition number is not the same: it favours movements that show all ten parameters equally badly.

    Args:
        chain: the arm.
        rng: source of randomness.
        candidates: number of movements drawn.
        seconds, harmonics, speed, acceleration, fraction: as :func:`draw_movement`.

    Raises:
        ValueError: no candidates; as :func:`draw_movement`.
    """
    if candidates < 1:
        raise ValueError(f"excitation: candidates must be 1 or more; got {candidates}")
    limits = (seconds, harmonics, speed, acceleration, fraction)
    return min((draw_movement(chain, rng, *limits) for _ in range(candidates)), key=lambda m: mass_bound(chain, m))


def mass_bound(
    chain: Chain, movement: Movement, samples: int = 50, torque: float = 0.1, acceleration: float = 0.05
) -> float:
    """Return the least standard deviation, kg, that a movement leaves of a payload's mass; inf where it says nothing.

    It is the Cramer-Rao bound with all ten inertial parameters unknown, for an arm that is otherwise known.

    Args:
        chain: the arm.
        movement: of the arm.
        samples: evenly over the movement.
        torque: standard deviation of a measured torque, Nm.
        acceleration: standard deviation of a measured acceleration, 1/s^2, which errs all torques by the arm's inertia.
    """
    q, qd, qdd = movement.at(np.arange(samples) * (movement.seconds / samples))
    inertia = mass_matrix(chain, q)
    noise = torque**2 * np.eye(q.shape[-1]) + acceleration**2 * inertia @ inertia
    rows = payload_regressor(chain, q, qd, qdd) * _PLAUSIBLE
    information = (rows.swapaxes(-1, -2) @ np.linalg.solve(noise, rows)).sum(0)
    values, vectors = np.linalg.eigh(information)
    if values[0] <= 1e-12 * values[-1]:
        return np.inf
    return float(_PLAUSIBLE[0] * np.sqrt((vectors[0] ** 2 / values).sum()))


def condition(chain: Chain, movement: Movement, samples: int = 50) -> float:
    """Return the condition number of the payload's scaled regressor over a movement; inf where it says nothing."""
    t = np.arange(samples) * (movement.seconds / samples)
    rows = payload_regressor(chain, *movement.at(t)).reshape(-1, 10) * _PLAUSIBLE
    values = np.linalg.svd(rows, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 1e-12 * values[0] else np.inf


def _check(**numbers: float) -> None:
    """Raise for the first number outside its range."""
    for name, value in numbers.items():
        if not 0.0 < value < np.inf:
            raise ValueError(f"draw_movement: {name} must be positive and finite; got {value}")
    if numbers["harmonics"] != int(numbers["harmonics"]):
        raise ValueError(f"draw_movement: harmonics must be a whole number; got {numbers['harmonics']}")
    if numbers["fraction"] > 1.0:
        raise ValueError(f"draw_movement: fraction must be at most 1; got {numbers['fraction']}")

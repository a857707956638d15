"""Payloads: rigid bodies fixed to an arm's tip link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class Payload:
    """A rigid body fixed to the tip link, in the axes of the tip link's frame.

    Attributes:
        mass: kg; 0 for nothing held.
        com: (3,) centre of mass, m.
        inertia: (3, 3) about the centre of mass, kg m^2.

    Raises:
        ValueError: a wrong shape, a number that is not finite, a negative mass, an inertia that no body has.

    >>> Payload(2.0, (0.0, 0.0, 0.1), np.diag([0.01, 0.01, 0.01])).parameters.round(3).tolist()
    [2.0, 0.0, 0.0, 0.2, 0.03, 0.0, 0.0, 0.03, 0.0, 0.01]
    """

    mass: float
    com: ndarray
    inertia: ndarray

    def __post_init__(self) -> None:
        com, inertia = np.array(self.com, dtype=float), np.array(self.inertia, dtype=float)
        if not 0.0 <= self.mass < np.inf:
            raise ValueError(f"Payload: mass must be finite, 0 kg or more; got {self.mass}")
        if com.shape != (3,) or not np.isfinite(com).all():
            raise ValueError(f"Payload: com must be three finite numbers, m; got {self.com}")
        if inertia.shape != (3, 3) or not np.isfinite(inertia).all() or not np.allclose(inertia, inertia.T):
            raise ValueError(f"Payload: inertia must be (3, 3), finite and symmetric, kg m^2; got {inertia.tolist()}")
        moments = np.linalg.eigvalsh(inertia)
        if moments[0] < -1e-9 * abs(moments[2]) or moments[0] + moments[1] < (1.0 - 1e-9) * moments[2]:
            raise ValueError(
                "Payload: no body has these principal moments: each must be 0 or more and at most the sum of the "
                f"other two; got {moments.tolist()} kg m^2 (is the inertia about the centre of mass?)"
            )
        object.__setattr__(self, "mass", float(self.mass))
        object.__setattr__(self, "com", com)
        object.__setattr__(self, "inertia", inertia)

    @cached_property
    def parameters(self) -> ndarray:
        """(10,) m, m cx, m cy, m cz, Ixx, Ixy, Ixz, Iyy, Iyz, Izz, the inertia about the ORIGIN of the tip's frame."""
        return parameters(self.mass, self.com, self.inertia)


def parameters(mass: float, com: ndarray, inertia: ndarray) -> ndarray:
    """Return the (10,) inertial parameters about the frame's origin, in which torques are linear.

    phi = (m, m c, I), I = inertia + m (c.c 1 - c c^T), with the six elements of I by rows.

    Args:
        mass: kg.
        com: (3,) centre of mass, m.
        inertia: (3, 3) about the centre of mass, kg m^2.
    Reference: Atkeson, An, Hollerbach, Int. J. Robotics Research 5(3), 101 (1986).
    """
    about_origin = inertia + mass * (com @ com * np.eye(3) - np.outer(com, com))
    return np.concatenate([[mass], mass * com, about_origin[np.triu_indices(3)]])


def about_com(phi: ndarray) -> tuple[float, ndarray, ndarray]:
    """Return mass, centre of mass (3,) and inertia (3, 3) about it: the inverse of :func:`parameters`.

    >>> about_com(np.array([2.0, 0, 0, 0.2, 0.03, 0, 0, 0.03, 0, 0.01]))[2].diagonal().round(6).tolist()
    [0.01, 0.01, 0.01]
    """
    com = phi[1:4] / phi[0] if phi[0] > 0.0 else np.zeros(3)
    inertia = np.zeros((3, 3))
    inertia[np.triu_indices(3)] = phi[4:]
    inertia = inertia + np.triu(inertia, 1).T
    return float(phi[0]), com, inertia - phi[0] * (com @ com * np.eye(3) - np.outer(com, com))


def box(mass: float, com: Sequence[float] | ndarray, edges: Sequence[float] | ndarray) -> Payload:
    """Return a solid box whose edges, m, lie along the axes of the tip's frame.

    >>> box(12.0, (0, 0, 0.1), (0.1, 0.2, 0.3)).inertia.diagonal().round(3).tolist()
    [0.13, 0.1, 0.05]
    """
    squares = np.square(np.asarray(edges, dtype=float))
    if squares.shape != (3,) or not np.isfinite(squares).all():
        raise ValueError(f"box: edges must be three finite lengths, m; got {edges}")
    return Payload(mass, np.asarray(com, dtype=float), mass / 12.0 * np.diag(squares.sum() - squares))


def nothing() -> Payload:
    """Return the payload of an empty hand: mass 0.

    >>> nothing().mass
    0.0
    """
    return Payload(0.0, np.zeros(3), np.zeros((3, 3)))


def draw_payloads(
    n: int, rng: np.random.Generator, mass: tuple[float, float] = (0.0, 5.0), flange: float = 0.045
) -> list[Payload]:
    """Return n boxes of uniform mass that hang off-centre in front of the flange.

    The centre of mass is U(-.05, .05) m off the tip's z axis in x and y and U(.03, .12) m in front of the flange; the
    edges are U(.04, .16) m.

    Args:
        n: number of payloads.
        rng: source of randomness.
        mass: lowest and highest, kg.
        flange: z of the flange in the tip link's frame, m: .045 for the iiwa, .107 for the Panda.

    Raises:
        ValueError: a negative number of payloads, a range of masses that is none.

    >>> [round(payload.mass, 2) for payload in draw_payloads(3, np.random.default_rng(0))]
    [3.18, 3.65, 3.65]
    """
    if n < 0 or n != int(n):
        raise ValueError(f"draw_payloads: n must be a whole number, 0 or more; got {n}")
    if len(mass) != 2 or not 0.0 <= mass[0] <= mass[1] < np.inf:
        raise ValueError(f"draw_payloads: mass must be (lowest, highest), kg, 0 <= lowest <= highest; got {mass}")
    payloads = []
    for _ in range(n):
        weight = rng.uniform(*mass)
        com = np.array([*rng.uniform(-0.05, 0.05, 2), flange + rng.uniform(0.03, 0.12)])
        payloads.append(box(weight, com, rng.uniform(0.04, 0.16, 3)))
    return payloads

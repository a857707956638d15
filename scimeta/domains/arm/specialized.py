"""Inverse dynamics of one given arm, with its numbers written into the program: for batches of thousands of samples.

`inverse_dynamics` takes any arm as tensors. Here geometry and masses of one arm are plain numbers, the recursion runs
in the links' own frames component by component, and every product with a zero (most of an arm's geometry) is left out.
What remains is some thousand elementwise operations on rows of samples, which a compiler fuses into one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import Chain

Scalar = float | Tensor  # a number of the arm, or a row of samples
Vector = list[Scalar]

_NOTHING = 1e-12  # what rounding leaves of a zero in a rotation


def specialize(chain: Chain, *, compile: bool = False) -> Callable[..., Tensor]:
    """`inverse_dynamics` of this arm as a function (q, qd, qdd, payload=None) of (..., n) tensors and a (..., 10) one.

    Differentiable by the motion and the payload, not by the arm. Faster than `inverse_dynamics` from about a thousand
    samples on; compiled, about twenty times (measured by `tests/benchmarks/arm.py --only speed`).

    Args:
        chain: the arm; its numbers are copied.
        compile: True to compile, which takes a minute at the first call with each number of samples and needs a C++
            compiler.

    >>> from simulators.arm import urdf
    >>> from scimeta.domains.arm import inverse_dynamics, read_urdf
    >>> chain = read_urdf(urdf("iiwa")).chain
    >>> q, qd, qdd = torch.linspace(-1, 1, 63, dtype=torch.float64).view(3, 3, 7)
    >>> torch.allclose(specialize(chain)(q, qd, qdd), inverse_dynamics(chain, q, qd, qdd))
    True
    """
    axis, place, inertial, gravity = (
        _numbers(values) for values in (chain.axis, chain.translation, chain.inertial, chain.gravity)
    )
    slides = [bool(value) for value in chain.slides.tolist()]
    cross = torch.linalg.cross(chain.axis[:, :, None], torch.eye(3).to(chain.axis).expand(len(axis), 3, 3), dim=1)
    square = cross @ cross
    # Rodrigues: placement times (1 + K^2 + sin(q) K - cos(q) K^2), entry by entry.
    constant, by_sine, by_cosine = (
        _numbers(chain.rotation @ part)
        for part in (torch.eye(3).to(square) + square, cross, -square)
    )  # fmt: skip

    def rotation(joint: int, q: Tensor) -> list[Vector]:
        sine, cosine = (0.0, 1.0) if slides[joint] else (q.sin(), q.cos())
        parts = zip(constant[joint], by_sine[joint], by_cosine[joint], strict=True)
        return [
            [_plus(a, _plus(_times(b, sine), _times(c, cosine))) for a, b, c in zip(*rows, strict=True)]
            for rows in parts
        ]

    def rows(q: Tensor, qd: Tensor, qdd: Tensor, payload: Tensor | None) -> Tensor:
        """(n, samples) from (n, samples) and (10, samples)."""
        spin: Vector = [0.0, 0.0, 0.0]
        rate: Vector = [0.0, 0.0, 0.0]
        pull: Vector = [-part for part in gravity]
        links = []
        for joint, parameters in enumerate(inertial):
            if payload is not None and joint == len(inertial) - 1:
                parameters = [_plus(own, more) for own, more in zip(parameters, payload.unbind(0), strict=True)]
            frame = rotation(joint, q[joint])
            lever: Vector = place[joint]
            if slides[joint]:
                along = _matrix(constant_frame(joint), axis[joint])
                lever = _sum(lever, _scaled(q[joint], along))
            pull = _sum(pull, _cross(rate, lever), _cross(spin, _cross(spin, lever)))
            back = list(map(list, zip(*frame, strict=True)))
            spin, rate, pull = (_matrix(back, vector) for vector in (spin, rate, pull))
            own, more = _scaled(qd[joint], axis[joint]), _scaled(qdd[joint], axis[joint])
            if slides[joint]:
                pull = _sum(pull, more, _scaled(2.0, _cross(spin, own)))
            else:
                rate, spin = _sum(rate, more, _cross(spin, own)), _sum(spin, own)
            links.append((frame, lever, *_wrench(parameters, spin, rate, pull)))
        torques: list[Scalar] = []
        force, moment = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        for joint, (frame, lever, own_force, own_moment) in reversed(list(enumerate(links))):
            force, moment = _sum(force, own_force), _sum(moment, own_moment)
            torques.append(_dot(axis[joint], force if slides[joint] else moment))
            force, moment = _matrix(frame, force), _matrix(frame, moment)
            moment = _sum(moment, _cross(lever, force))
        return torch.stack([torque + torch.zeros_like(q[0]) for torque in reversed(torques)])

    def constant_frame(joint: int) -> list[Vector]:
        return [
            [a + c for a, c in zip(*pair, strict=True)] for pair in zip(constant[joint], by_cosine[joint], strict=True)
        ]

    run = torch.compile(rows, dynamic=False) if compile else rows

    def torques(q: Tensor, qd: Tensor, qdd: Tensor, payload: Tensor | None = None) -> Tensor:
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in (q, qd, qdd, payload) if x is not None))
        q, qd, qdd = (x.expand(*lead, len(axis)).reshape(-1, len(axis)).T.contiguous() for x in (q, qd, qdd))
        held = None if payload is None else payload.expand(*lead, 10).reshape(-1, 10).T.contiguous()
        return run(q, qd, qdd, held).T.reshape(*lead, len(axis))

    return torques


def _wrench(parameters: Sequence[Scalar], spin: Vector, rate: Vector, pull: Vector) -> tuple[Vector, Vector]:
    """Force and moment that a link needs, about its frame's origin."""
    mass, first = parameters[0], list(parameters[1:4])
    xx, xy, xz, yy, yz, zz = parameters[4:]
    inertia = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    force = _sum(_scaled(mass, pull), _cross(rate, first), _cross(spin, _cross(spin, first)))
    moment = _sum(_matrix(inertia, rate), _cross(spin, _matrix(inertia, spin)), _cross(first, pull))
    return force, moment


def _numbers(values: Tensor) -> list:
    return torch.where(values.abs() < _NOTHING, 0.0, values).tolist()


def _times(a: Scalar, b: Scalar) -> Scalar:
    for one, other in ((a, b), (b, a)):
        if isinstance(one, float) and one in (0.0, 1.0, -1.0):
            return 0.0 if one == 0.0 else other if one == 1.0 else -other
    return a * b


def _plus(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, float) and a == 0.0:
        return b
    return a if isinstance(b, float) and b == 0.0 else a + b


def _dot(u: Vector, v: Vector) -> Scalar:
    total: Scalar = 0.0
    for a, b in zip(u, v, strict=True):
        total = _plus(total, _times(a, b))
    return total


def _matrix(matrix: list[Vector], vector: Vector) -> Vector:
    return [_dot(row, vector) for row in matrix]


def _scaled(factor: Scalar, vector: Vector) -> Vector:
    return [_times(factor, element) for element in vector]


def _sum(*vectors: Vector) -> Vector:
    total: Vector = [0.0, 0.0, 0.0]
    for vector in vectors:
        total = [_plus(a, b) for a, b in zip(total, vector, strict=True)]
    return total


def _cross(u: Vector, v: Vector) -> Vector:
    return [_plus(_times(u[i], v[j]), _times(-1.0, _times(u[j], v[i]))) for i, j in ((1, 2), (2, 0), (0, 1))]

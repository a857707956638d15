"""How an arm is mounted, told from its torques: they are linear in the acceleration of free fall.

    tau = tau(q, qd, qdd; no gravity) + G(q) g + friction(qd),    g (3,) in the base's axes,

so that least squares over recorded rows gives g. An arm hung from a ceiling and torques of the wrong sign look alike
joint by joint, but gravity turns neither inertia nor friction: both explanations are tried on whole rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import GRAVITY, Chain, inverse_dynamics
from scimeta.domains.arm.log import Log

_FRICTION_SPEED = 0.02  # rad/s


class MountingTest(NamedTuple):
    """When recordings say that gravity points elsewhere than stated.

    Attributes:
        angle: degrees, by which the estimate must be off. Link errors of 5 % and 10 mm turn it by 2.5 at most where
            payloads are known, heavy ones that nobody states by 30.
        squares: what the squared torques left over must fall below, as a share of those with gravity as stated. Of
            healthy recordings it is .6 or more, of a tilt by 15 degrees with known payloads .02 or less.
        length: share of 9.81 m/s^2 that the estimate must have; where it has less, gravity is not in the torques.
        tie: difference of mean agreement up to which two explanations are as good as each other.
        seen: share of G's largest singular value below which a direction of gravity is not seen.
        exact: degrees from an axis of the base up to which that axis is proposed.
    """

    angle: float = 5.0
    squares: float = 0.25
    length: float = 0.5
    tie: float = 0.1
    seen: float = 0.03
    exact: float = 3.0


class Explanation(NamedTuple):
    """Signs of the torques and a gravity, and how well they fit.

    Attributes:
        sign: (n,) what the torques read are multiplied by.
        gravity: (3,) m/s^2.
        found: (3,) m/s^2, the estimate that it was taken from.
        tilted: whether that is another gravity than the stated one.
        agreement: mean over the joints of 2 a.b / (a.a + b.b), of model and torques less friction: 1 is perfect.
        stated: the same with gravity as stated.
        left: Nm^2, squared torques left over.
    """

    sign: Tensor
    gravity: Tensor
    found: Tensor
    tilted: bool
    agreement: float
    stated: float
    left: float


def explain(
    chain: Chain,
    log: Log,
    payload: Tensor,
    sign: Tensor,
    settings: MountingTest = MountingTest(),  # noqa: B008
) -> Explanation:
    """Return how well the torques fit with these signs, and with another gravity where that fits far better.

    Args:
        chain: the nominal arm, with gravity as stated.
        log: (samples, ...) rows of any trials.
        payload: (samples, 10) what was held in each.
        sign: (n,) of the torques.
        settings: when another gravity is believed.
    """
    log = log._replace(tau=sign * log.tau)
    found = estimate_gravity(chain, log, payload, settings)
    left, agreement = _fit(chain, log, payload)
    length = found.norm().item()
    cosine = found @ chain.gravity / (length * chain.gravity.norm()).clamp(min=1e-12)
    if length > settings.length * GRAVITY and cosine.clamp(-1, 1).arccos().rad2deg() > settings.angle:
        gravity = _rounded(found * (GRAVITY / length), settings)
        less, better = _fit(chain._replace(gravity=gravity), log, payload)
        if less < settings.squares * left:
            return Explanation(sign, gravity, found, True, better, agreement, less)
    return Explanation(sign, chain.gravity, found, False, agreement, agreement, left)


def estimate_gravity(
    chain: Chain,
    log: Log,
    payload: Tensor,
    settings: MountingTest = MountingTest(),  # noqa: B008
) -> Tensor:
    """Return (3,) the gravity that explains the torques best, with friction of every joint beside it, m/s^2.

    A direction that no joint shows (an arm whose axes are all parallel) is given what the length of 9.81 leaves.

    Args: as of `explain`.
    """
    still = torch.zeros_like(log.q)
    weightless = chain._replace(gravity=torch.zeros_like(chain.gravity))
    left = log.tau - inverse_dynamics(weightless, log.q, log.qd, log.qdd, payload)
    axes = torch.eye(3, dtype=log.q.dtype)
    pulls = [inverse_dynamics(chain._replace(gravity=axis), log.q, still, still, payload) for axis in axes]
    both = torch.stack((*pulls, left), -1).transpose(0, 1)  # (n, samples, 4)
    rubbing = _rubbing(log)
    both = (both - rubbing @ (torch.linalg.pinv(rubbing) @ both)).flatten(0, 1)
    across, sizes, directions = torch.linalg.svd(both[:, :3], full_matrices=False)
    seen = sizes > settings.seen * sizes[0]
    found = directions[seen].mT @ ((across.mT @ both[:, 3])[seen] / sizes[seen])
    if seen.sum() == 2:
        unseen = directions[2] * torch.where(directions[2] @ chain.gravity < 0, -1.0, 1.0)
        found = found + unseen * (GRAVITY**2 - found @ found).clamp(min=0).sqrt()
    return found


def _fit(chain: Chain, log: Log, payload: Tensor) -> tuple[float, float]:
    """Squared torques left over when each joint may rub, but only as friction does; mean agreement."""
    model = inverse_dynamics(chain, log.q, log.qd, log.qdd, payload)
    left = (log.tau - model).T[..., None]  # (n, samples, 1)
    rubbing, best = _rubbing(log), left
    for columns in ([0], [1], [0, 1]):
        some = rubbing[..., columns]
        share = torch.linalg.pinv(some) @ left
        tried = left - some @ share
        allowed = (share > 0).all(1, keepdim=True) & (tried.square().sum(1, keepdim=True) < best.square().sum(1, True))
        best = torch.where(allowed, tried, best)
    rest = best[..., 0].T
    torque = model + rest
    sizes = torque.square().sum(0) + model.square().sum(0)
    return rest.square().sum().item(), (2 * (torque * model).sum(0) / sizes.clamp(min=1e-12)).mean().item()


def _rubbing(log: Log) -> Tensor:
    """(n, samples, 2) what dry and viscous friction go with."""
    return torch.stack(((log.qd / _FRICTION_SPEED).tanh(), log.qd), -1).transpose(0, 1)


def _rounded(gravity: Tensor, settings: MountingTest) -> Tensor:
    """As one would write it: along an axis where it nearly is, else to a hundredth."""
    axis = gravity.abs().argmax()
    along = torch.zeros_like(gravity)
    along[axis] = gravity[axis].sign() * GRAVITY
    near = (gravity[axis].abs() / GRAVITY).clamp(max=1).arccos().rad2deg() < settings.exact
    return along if near else (100 * gravity).round() / 100

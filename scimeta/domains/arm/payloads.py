"""Inertial parameters of payloads, and what is known of them before one is weighed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scimeta.domains.arm.weighing import PayloadPrior

_KNOWN, _UNKNOWN = 0.01, 0.1  # m, standard deviation of a centre of mass that was stated, and of one that was not
_EDGES, _EDGES_SD = 0.1, 0.035  # m, of payloads of which nobody says how large they are
_VIEWS = 64  # a power of two
_STEPS = 20  # from zero to the heaviest label; masses in less than half of them are too few to be what payloads are


def payload_prior(mass: Tensor, com: Tensor, edges: Tensor | float = 0.1) -> PayloadPrior:
    """What payloads are like, from those of the past or draws of one's belief: mean and covariance of the parameters.

    Args:
        mass: (payloads,) kg.
        com: (payloads, 3) centres of mass in the last link's frame, m.
        edges: (payloads, 3) m, of boxes as heavy and as large as the payloads; or one length for all.
    Raises: ValueError for shapes that do not fit, fewer than two payloads, numbers that are not finite.
    """
    mass, com = (torch.as_tensor(values, dtype=torch.float64) for values in (mass, com))
    if mass.ndim != 1 or len(mass) < 2 or com.shape != (len(mass), 3):
        raise ValueError(
            "payload_prior: mass must be (payloads,), two or more, and com (payloads, 3); got "
            f"{tuple(mass.shape)} and {tuple(com.shape)}"
        )
    parameters = box(mass, com, torch.as_tensor(edges, dtype=mass.dtype))
    if not parameters.isfinite().all():
        raise ValueError("payload_prior: mass, com and edges must be finite; leave out payloads with blanks")
    return PayloadPrior(parameters.mean(0), parameters.mT.cov())


def prior_of_range(low: float, high: float, com: Tensor | None = None) -> PayloadPrior:
    """What payloads are like that weigh anything between two masses, each as likely: mean and covariance of all ten.

    Args:
        low, high: kg.
        com: (payloads, 3) m, where some are known to have their centres of mass, nan where not; a body has its own
            within .01 m (standard deviation) of one of them, by default within .1 m of the last link's origin.
    Raises: ValueError unless 0 <= low < high, both finite, or for a com of another shape.

    >>> prior = prior_of_range(0.0, 5.0)
    >>> round(prior.mean[0].item(), 1), round(prior.covariance[0, 0].sqrt().item(), 1)
    (2.5, 1.4)
    """
    if not (math.isfinite(high) and 0 <= low < high):
        raise ValueError(
            f"prior_of_range: expected a lowest and a higher mass, 0 <= low < high, in kg; got {low}, {high}"
        )
    com = (
        torch.full((1, 3), torch.nan, dtype=torch.float64) if com is None else torch.as_tensor(com, dtype=torch.float64)
    )
    if com.ndim != 2 or com.shape[1:] != (3,) or not len(com):
        raise ValueError(f"prior_of_range: com must be (payloads, 3), one or more; got {tuple(com.shape)}")
    # Two masses have the mean and the spread of all.
    middle, spread = (low + high) / 2, (high - low) / 12**0.5
    mass = torch.tensor([middle - spread, middle + spread], dtype=torch.float64).repeat_interleave(len(com))
    return _bodies(mass, com.repeat(2, 1))


def prior_of_labels(mass: Tensor, com: Tensor | None = None) -> PayloadPrior:
    """What payloads are like, from labels that may be blank: as `payload_prior` of many bodies that each label allows.

    A body has the mass that was stated. Its centre of mass lies within .01 m (standard deviation) of where it was
    stated to be, within .1 m of the origin of the last link's frame where it was not; its edges are .1 +- .035 m. So
    the prior leaves all ten parameters open, even if all payloads were hung at one point. Empty hands are one more
    payload, of 0 kg.

    Few test weights do not tell what else will be weighed: where the masses fill less than ten of the twenty steps from
    zero to the heaviest, they are taken to be anything from zero to twice the heaviest, as `prior_of_range`.

    Args:
        mass: (payloads,) kg; those unknown (nan) are left out.
        com: (payloads, 3) m; nan where unknown; all unknown by default.
    Raises: ValueError for shapes that do not fit, a mass that is negative or infinite, or no mass above zero.

    >>> prior = prior_of_labels(torch.tensor([2.5, torch.nan, 0.0]))
    >>> round(prior.mean[0].item(), 1), round(prior.covariance[0, 0].sqrt().item(), 1)
    (2.5, 1.4)
    """
    mass = torch.as_tensor(mass, dtype=torch.float64)
    com = torch.as_tensor(torch.full((*mass.shape, 3), torch.nan) if com is None else com, dtype=torch.float64)
    if mass.ndim != 1 or com.shape != (len(mass), 3):
        raise ValueError(
            f"prior_of_labels: mass must be (payloads,) and com (payloads, 3); got {tuple(mass.shape)} and "
            f"{tuple(com.shape)}"
        )
    if (mass < 0).any() or mass.isinf().any() or com.isinf().any():
        raise ValueError("prior_of_labels: a mass is 0 kg or more, nan where unknown; so is a centre of mass")
    held = mass > 0
    if not held.any():
        raise ValueError(
            f"prior_of_labels: expected a payload above 0 kg; of {len(held)} trials {int(mass.isfinite().sum())} have "
            "a mass, none above zero: weigh one test weight or more, or state the range with prior_of_range"
        )
    heaviest = mass[held].max()
    if len((_STEPS * mass[mass.isfinite()] / heaviest).round().unique()) < _STEPS / 2:
        return prior_of_range(0.0, 2 * heaviest.item(), com[held])
    chosen = held.clone()
    chosen[(mass == 0).nonzero()[:1, 0]] = True
    return _bodies(mass[chosen], com[chosen])


def _bodies(mass: Tensor, com: Tensor) -> PayloadPrior:
    """Of boxes of each mass (payloads,) about each centre (payloads, 3)."""
    # Evenly spread over (-1, 1), less the first, which is the corner; times sqrt(3) the variance is one.
    even = torch.quasirandom.SobolEngine(6).draw(_VIEWS, dtype=torch.float64)[1:]
    views = 3**0.5 * (2 * even - 1)  # (views, 6)
    off = torch.where(com.isfinite(), _KNOWN, _UNKNOWN)
    centres = com.nan_to_num()[:, None] + off[:, None] * views[:, :3]  # (payloads, views, 3)
    edges = (_EDGES + _EDGES_SD * views[:, 3:]).expand_as(centres)
    return payload_prior(mass.repeat_interleave(len(views)), centres.flatten(0, 1), edges.flatten(0, 1))


def given_mass(prior: PayloadPrior, mass: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of payloads once their mass is: means (..., 10) and covariances (..., 10, 10) of the parameters.

    Args:
        prior: of the payloads.
        mass: (...,) kg; nan where unknown; an empty hand at zero.
    """
    known, empty = mass.isfinite()[..., None], (mass == 0)[..., None]
    slope = prior.covariance[0] / prior.covariance[0, 0]
    mean = torch.where(known, prior.mean + slope * (mass.nan_to_num() - prior.mean[0])[..., None], prior.mean)
    left = prior.covariance - slope[:, None] * prior.covariance[0]
    covariance = torch.where(known[..., None], left, prior.covariance)
    return torch.where(empty, 0.0, mean), torch.where(empty[..., None], 0.0, covariance)


def box(mass: Tensor, com: Tensor, edges: Tensor) -> Tensor:
    """(..., 10) inertial parameters of solid boxes along the frame's axes; mass (...,), com (..., 3), edges (..., 3) m.

    >>> box(torch.tensor(12.0), torch.tensor([0.0, 0.0, 0.1]), torch.tensor([0.1, 0.2, 0.3]))[[0, 3, 4, 7, 9]]
    tensor([12.0000,  1.2000,  0.2500,  0.2200,  0.0500])
    """
    squares = edges**2 / 12 + com**2
    own = torch.diag_embed(squares.sum(-1, keepdim=True) - squares)
    both = own - com[..., :, None] * com[..., None, :] * ~torch.eye(3, dtype=torch.bool, device=com.device)
    moments = both.flatten(-2)[..., [0, 1, 2, 4, 5, 8]]
    return mass[..., None] * torch.cat((torch.ones_like(com[..., :1]), com, moments), -1)

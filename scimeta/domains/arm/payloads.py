"""Inertial parameters of payloads, and what is known of them before one is weighed."""

from __future__ import annotations

import torch
from torch import Tensor

from scimeta.domains.arm.weighing import PayloadPrior


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

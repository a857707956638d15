"""What a law leaves of past specimens, and which of their points are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from scimeta.calibration.family.family import Family
from scimeta.calibration.learning.past import Past, node_residuals
from scimeta.calibration.posterior.posterior import Posterior


def wrong_points(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (specimens, points): the probability that each measurement is an outlier."""
    wrong = torch.zeros_like(past.data.x)
    if family.outliers is None:
        return wrong
    inverse_sd = family.points(past.data).inverse_sd
    for rows, r, relative in node_residuals(past, family, found):
        chance = family.outliers.probability(r, inverse_sd[rows, None] / relative)
        wrong[rows] = (chance * found.weights[rows, :, None]).nan_to_num().sum(1)
    return torch.where(past.data.mask, wrong, 0.0)


def even_residuals(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (specimens, points): what the law leaves at the modes, divided so that all have the noise's variance.

    A point that pulls the law after it leaves less: sqrt(1 - h) of the noise, by its leverage h.
    """
    curve, by = family.linearized(found.mode, past.data.x)
    inverse_sd = family.inverse_sd(family.points(past.data), curve)
    jac = torch.stack([by[name] for name in family.law.fast], -1) * inverse_sd[..., None]
    leverage = ((jac @ found.laplace) * jac).sum(-1)
    left = (curve - past.data.y) / (1.0 - leverage).clamp(min=0.05).sqrt()
    return left / family.error_model.relative_sd(curve)

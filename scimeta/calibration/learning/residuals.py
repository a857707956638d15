"""What a law leaves of past specimens: wrong points, what it misses in all of them, what wanders in each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scimeta.calibration.family.family import Family
from scimeta.calibration.family.misfit import Basis, Misfit, Residuals, fit_misfit
from scimeta.calibration.learning.past import Past, node_residuals
from scimeta.calibration.posterior.posterior import Posterior


def wrong_points(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (specimens, points): the probability that each measurement is an outlier."""
    wrong = torch.zeros_like(past.data.x)
    if family.outliers is None:
        return wrong
    inverse_sd = past.data.points(family.noise).inverse_sd
    for rows, r in node_residuals(past, family, found):
        chance = family.outliers.probability(r, inverse_sd[rows, None])
        wrong[rows] = (chance * found.weights[rows, :, None]).nan_to_num().sum(1)
    return torch.where(past.data.mask, wrong, 0.0)


def even_residuals(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (specimens, points): what the law leaves at the modes, divided so that all have the noise's variance.

    A point that pulls the law after it leaves less: sqrt(1 - h) of the noise, by its leverage h.
    """
    inverse_sd = past.data.points(family.noise).inverse_sd
    curve, by = family.linearized(found.mode, past.data.x)
    jac = torch.stack([by[name] for name in family.law.fast], -1) * inverse_sd[..., None]
    leverage = ((jac @ found.laplace) * jac).sum(-1)
    return (curve - past.data.y) / (1.0 - leverage).clamp(min=0.05).sqrt()


def residuals(past: Past, family: Family, found: Posterior) -> tuple[Residuals, Basis]:
    """Return what the law leaves at every specimen's mode, and the range of what it predicts."""
    curve, by = replace(family, misfit=None).linearized(found.mode, past.data.x)
    inverse_sd, mask = past.data.points(family.noise).inverse_sd, past.data.mask
    sensitivity = torch.stack([d[mask] for d in by.values()], -1)
    specimen = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
    inverse_sd = inverse_sd * (1.0 - wrong_points(past, family, found))
    left = Residuals(curve[mask], sensitivity, (past.data.y - curve)[mask], inverse_sd[mask], specimen)
    lower, upper = float(curve[mask].min()), float(curve[mask].max())
    return left, Basis(lower, upper if upper > lower else lower + 1.0)


def learned_misfit(past: Past, family: Family, found: Posterior) -> Misfit:
    """Return what the law misses in the same way in all specimens."""
    found_residuals, basis = residuals(past, family, found)
    return Misfit(*basis, fit_misfit(found_residuals, basis))


def wander(past: Past, family: Family, found: Posterior) -> float:
    """Return the standard deviation of the smooth part of the residuals; 0 where they look like pure scatter.

    Scatter shows in the differences of neighbours, as half their mean square (von Neumann, Ann. Math. Stat. 12, 367,
    1941); what the whole variance has beyond that is smooth. With a discrepancy it is 0: that tells where they depart.
    """
    free = past.free & (wrong_points(past, family, found) < 0.5)
    pairs = free[:, 1:] & free[:, :-1]
    count = int(pairs.sum())
    if count == 0 or family.discrepancy is not None:
        return 0.0
    square = 0.0
    for rows, r in node_residuals(past, family, found):  # over the posteriors; modes bend to the scatter
        difference = torch.where(pairs[rows, None], r.diff(dim=-1), 0.0)
        square += float((difference.square().sum(-1) * found.weights[rows]).nan_to_num().sum())
    whole, scatter = family.noise**2, 0.5 * square / count
    chance = 4.0 * (3.0 / count) ** 0.5 * whole  # four standard errors
    return (whole - scatter) ** 0.5 if whole - scatter > chance else 0.0

"""One step of expectation maximisation: the population that the posteriors of past specimens suggest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers, Tally, tally
from scimeta.calibration.learning.past import Past, node_residuals, regressed
from scimeta.calibration.posterior.posterior import Posterior


def maximize(past: Past, family: Family, found: Posterior, *, hold_means: bool = False) -> Family:
    """Return the family that the posteriors suggest (the M step).

    Args:
        past: the specimens.
        family: from which the posteriors were found.
        found: posterior of each specimen.
        hold_means: True to learn the spreads alone.
    """
    members = family.population(past.design).memberships(found.nodes) * found.weights
    updated = fitted_components(family, past.design, found.nodes, members, hold_means=hold_means)
    if family.shared:
        shared, errors = moved_shared(past, family, found)
        updated = replace(updated, shared=shared, shared_errors=errors)
    noise, outliers = _noise(past, family, found)
    return replace(updated, noise=noise, outliers=outliers)


def fitted_components(
    family: Family, design: Tensor, nodes: Tensor, members: Tensor, *, hold_means: bool = False
) -> Family:
    """Return the family with the components that weighted nodes suggest.

    Means are regressed on the conditions; their scatter, divided by specimens minus regressors as in restricted maximum
    likelihood, and the posteriors' own covariance make up each component's. Components lend each other a little of
    theirs, as if each had as many more specimens as there are parameters.

    Args:
        family: whose other parts stay.
        design: (specimens, 1 + conditions).
        nodes: (specimens, nodes, fast).
        members: (components, specimens, nodes) weights; their sum over components and nodes is 1.
        hold_means: True to keep the coefficients.
    """
    weight = members.sum(-1).clamp(min=1e-12)  # (components, specimens)
    count, (regressors, fast) = weight.sum(1), (design.shape[1], nodes.shape[-1])
    means = torch.einsum("ksn,snf->ksf", members, nodes) / weight[..., None]
    root = weight.sqrt()[..., None]
    coefficients = family.coefficients if hold_means else regressed(root * design, root * means)
    scatter = root * (means - design @ coefficients)
    free = (count - regressors).clamp(min=1.0)
    between = scatter.mT @ scatter / free[:, None, None]
    centred = [nodes - mean[:, None] for mean in means]
    within = torch.stack([((m[..., None] * c).mT @ c).sum(0) for m, c in zip(members, centred, strict=True)])
    covariances = between + within / count[:, None, None]
    if len(count) > 1:
        pooled = (count[:, None, None] * covariances).sum(0) / count.sum()
        covariances = (count[:, None, None] * covariances + fast * pooled) / (count + fast)[:, None, None]
    # A direction in which all specimens are alike would otherwise shrink for ever. Real ones may be small in any unit.
    least = 1e-10 * torch.diag(nodes.square().mean((0, 1)).clamp(max=1.0))
    covariances = 0.5 * (covariances + covariances.mT) + least
    return replace(family, weights=count / count.sum(), coefficients=coefficients, covariances=covariances)


def _noise(past: Past, family: Family, found: Posterior) -> tuple[float, Outliers | None]:
    """Return the noise of the points that brought no sigma, and the outliers among them."""
    square, sums, outliers = 0.0, Tally(), family.outliers
    for rows, r, relative in node_residuals(past, family, found) if past.free.any() else ():
        weights = found.weights[rows, :, None] * past.free[rows, None]
        if outliers is None:
            square += float(((r / relative).square() * weights).nan_to_num().sum())
        else:
            sums = sums.plus(tally(r, weights, family.noise, outliers, relative))
    if outliers is None or not past.free.any():
        return _root_mean(past, square), outliers
    return sums.outliers(_least_noise(past))


def _root_mean(past: Past, square: float) -> float:
    """Return the noise from the expected squared residual, summed over the points that brought no sigma."""
    data, free = past.data, past.free
    if not free.any():  # the root mean square of the sigmas stands for points that bring none
        return float((data.sigma[data.given] ** 2).mean()) ** 0.5
    return max((square / float(free.sum())) ** 0.5, _least_noise(past))


def _least_noise(past: Past) -> float:
    """Return what keeps the weights finite in a past without noise."""
    return 1e-6 * float(past.data.y[past.data.mask].abs().max())


def moved_shared(past: Past, family: Family, found: Posterior) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the shared parameters after a scoring step on the marginal likelihood, and their standard errors.

    The score is the expectation over the posteriors (Fisher's identity); the information is that of the law linearised
    at the modes, y - f = J_shared step + J_fast deviation + noise.
    """
    information, score = _shared_information(past, family, found), _shared_score(past, family, found)
    scale = information.diagonal().clamp(min=1e-300).rsqrt()  # whatever their units, none counts for nothing
    covariance = scale[:, None] * torch.linalg.pinv(scale[:, None] * information * scale, hermitian=True) * scale
    step = covariance @ score
    variance = covariance.diagonal().clamp(min=0.0)
    shared = {}
    for i, (name, value) in enumerate(family.shared.items()):
        real = family.law.parameters[name].support == "real"
        shared[name] = value + (step[i] if real else step[i].clamp(-1.0, 1.0))  # by a factor of e at most
    return shared, dict(zip(shared, variance.sqrt().tolist(), strict=True))


def _shared_information(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (shared, shared): information on the shared parameters, each specimen's own marginalised."""
    by = family.linearized(found.mode, past.data.x)[1]
    points = family.seen(family.points(past.data), found.mode)
    fast = points.whitened(torch.stack([by[name] for name in family.law.fast], 1)).mT  # (specimens, points, fast)
    slow = points.whitened(torch.stack([by[name] for name in family.shared], 1)).mT
    members = family.population(past.design).memberships(found.nodes) * found.weights
    spread = torch.einsum("ksn,kij->sij", members, family.covariances)
    marginal = fast @ spread @ fast.mT
    marginal = marginal + torch.eye(marginal.shape[-1], dtype=marginal.dtype)
    return (slow.mT @ torch.linalg.solve(marginal, slow)).sum(0)


def _shared_score(past: Past, family: Family, found: Posterior) -> Tensor:
    """Return (shared,): gradient of the log marginal likelihood by the shared parameters."""
    data, count = past.data, found.weights.shape[1]
    points = family.seen(family.points(past.data), found.mode)
    score = torch.zeros(len(family.shared), dtype=data.x.dtype)
    for rows in torch.arange(len(data.x)).split(64):
        nodes = found.nodes[rows].reshape(len(rows) * count, -1)
        curve, by = family.linearized(nodes, data.x[rows].repeat_interleave(count, 0))
        some = points.rows(rows)
        left = some.y[:, None] - curve.reshape(len(rows), count, -1)
        pull = some.precision(left)
        if family.outliers is not None:
            pull = pull * (1.0 - family.outliers.probability(left, some.inverse_sd[:, None]))
        pull = torch.nan_to_num(pull * found.weights[rows, :, None]).reshape(len(nodes), -1)
        score += torch.stack([(by[name] * pull).sum() for name in family.shared])
    return score

"""One step of expectation maximisation: the population that the posteriors of past specimens suggest."""

from __future__ import annotations

import torch
from torch import Tensor

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.outliers import Outliers, Tally, tally
from scimeta.calibration.learning.population import (
    Modes,
    Past,
    Population,
    curves_at,
    linearized,
    node_residuals,
    regressed,
)
from scimeta.calibration.learning.residuals import learned_misfit
from scimeta.calibration.posterior.posterior import Posterior


def maximize(past: Past, population: Population, found: Posterior) -> Population:
    """Return the population that the posteriors suggest (the M step)."""
    members = population.prior(past).memberships(found.nodes) * found.weights
    held = population.modes.coefficients if population.hold_means else None
    updated = population._replace(modes=fitted_modes(past.design, found.nodes, members, held))
    if population.shared:
        shared, errors = moved_shared(past, population, found)
        updated = updated._replace(shared=shared, errors=errors)
    if population.discrepancy is not None:  # it takes up what changes of the misfit would
        discrepancy, noise = _discrepancy(past, population, found)
        return updated._replace(discrepancy=discrepancy, noise=noise)
    noise, outliers = _noise(past, population, found)
    misfit = None if population.misfit is None else learned_misfit(past, population, found)
    return updated._replace(noise=noise, outliers=outliers, misfit=misfit)


def fitted_modes(design: Tensor, nodes: Tensor, members: Tensor, held: Tensor | None = None) -> Modes:
    """Return the kinds that weighted nodes suggest.

    Means are regressed on the conditions; their scatter, divided by specimens minus regressors as in restricted maximum
    likelihood, and the posteriors' own covariance make up each kind's. Kinds lend each other a little of theirs, as if
    each had as many more specimens as there are parameters.

    Args:
        design: (specimens, 1 + conditions).
        nodes: (specimens, nodes, fast).
        members: (modes, specimens, nodes) weights; their sum over modes and nodes is 1.
        held: (modes, 1 + conditions, fast) coefficients that stay; they are fitted if None.
    """
    weight = members.sum(-1).clamp(min=1e-12)  # (modes, specimens)
    count, (regressors, fast) = weight.sum(1), (design.shape[1], nodes.shape[-1])
    means = torch.einsum("msn,snf->msf", members, nodes) / weight[..., None]
    root = weight.sqrt()[..., None]
    coefficients = regressed(root * design, root * means) if held is None else held
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
    return Modes(count / count.sum(), coefficients, 0.5 * (covariances + covariances.mT) + least)


def _noise(past: Past, population: Population, found: Posterior) -> tuple[float, Outliers | None]:
    """Return the noise of the points that brought no sigma, and the outliers among them."""
    square, sums, outliers = 0.0, Tally(), population.outliers
    for rows, r in node_residuals(past, population, found) if past.free.any() else ():
        weights = found.weights[rows, :, None] * past.free[rows, None]
        if outliers is None:
            square += float((r.square() * weights).nan_to_num().sum())
        else:
            sums = sums.plus(tally(r, weights, population.noise, outliers))
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


def _discrepancy(past: Past, population: Population, found: Posterior) -> tuple[Discrepancy, float]:
    """Return the discrepancy that the posteriors suggest, and the noise around it."""
    law, discrepancy = population.law(past), population.discrepancy

    def at_nodes(rows: slice) -> Tensor:
        return curves_at(law, found.nodes[rows], population.shared, past.data.x[rows, None])

    moments = discrepancy.moments(past.data.points(population.noise), at_nodes, found.weights, past.free)
    by = linearized(past, population, found, law)[1]
    points = population.points(past)  # in the metric in which the parameters are estimated
    slopes = points.precision(torch.stack([by[name] for name in past.law.fast], 1))  # (specimens, fast, points)
    imitated = (slopes @ discrepancy.basis(past.data.x)).sum(0)  # (fast, knots)
    updated = discrepancy.updated(moments, imitated, hold_mean=population.hold_means)
    return updated, _root_mean(past, moments.square)


def moved_shared(past: Past, population: Population, found: Posterior) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the shared parameters after a scoring step on the marginal likelihood, and their standard errors.

    The score is the expectation over the posteriors (Fisher's identity); the information is that of the law linearised
    at the modes, y - f = J_shared step + J_fast deviation + noise.
    """
    information, score = _shared_information(past, population, found), _shared_score(past, population, found)
    scale = information.diagonal().clamp(min=1e-300).rsqrt()  # whatever their units, none counts for nothing
    covariance = scale[:, None] * torch.linalg.pinv(scale[:, None] * information * scale, hermitian=True) * scale
    step = covariance @ score
    variance = covariance.diagonal().clamp(min=0.0)
    shared = {}
    for i, (name, value) in enumerate(population.shared.items()):
        real = past.law.parameters[name].support == "real"
        shared[name] = value + (step[i] if real else step[i].clamp(-1.0, 1.0))  # by a factor of e at most
    return shared, dict(zip(shared, variance.sqrt().tolist(), strict=True))


def _shared_information(past: Past, population: Population, found: Posterior) -> Tensor:
    """Return (shared, shared): information on the shared parameters, each specimen's own marginalised."""
    by = linearized(past, population, found, population.law(past))[1]
    points = population.points(past)
    fast = points.whitened(torch.stack([by[name] for name in past.law.fast], 1)).mT  # (specimens, points, fast)
    slow = points.whitened(torch.stack([by[name] for name in population.shared], 1)).mT
    members = (population.prior(past).memberships(found.nodes) * found.weights).sum(-1)  # (modes, specimens)
    spread = torch.einsum("ms,mij->sij", members, population.modes.covariances)
    marginal = fast @ spread @ fast.mT
    marginal = marginal + torch.eye(marginal.shape[-1], dtype=marginal.dtype)
    return (slow.mT @ torch.linalg.solve(marginal, slow)).sum(0)


def _shared_score(past: Past, population: Population, found: Posterior) -> Tensor:
    """Return (shared,): gradient of the log marginal likelihood by the shared parameters."""
    law, data, count = population.law(past), past.data, found.weights.shape[1]
    points = population.points(past)
    score = torch.zeros(len(population.shared), dtype=data.x.dtype)
    for rows in torch.arange(len(data.x)).split(64):
        nodes = found.nodes[rows].reshape(len(rows) * count, -1)
        params = {name: nodes[:, i] for i, name in enumerate(law.fast)}
        params |= {name: value.expand(len(nodes)) for name, value in population.shared.items()}
        curve, by = law.linearized({n: params[n] for n in law.names}, data.x[rows].repeat_interleave(count, 0))
        some = Points(*(part[rows] for part in points))
        left = some.y[:, None] - curve.reshape(len(rows), count, -1)
        pull = some.precision(left)
        if population.outliers is not None:
            pull = pull * (1.0 - population.outliers.probability(left, some.inverse_sd[:, None]))
        pull = torch.nan_to_num(pull * found.weights[rows, :, None]).reshape(len(nodes), -1)
        score += torch.stack([(by[name] * pull).sum() for name in population.shared])
    return score

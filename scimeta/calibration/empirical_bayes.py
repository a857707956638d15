"""Learning a prior from past specimens by expectation maximisation with a converged inner solve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.curves import Curve, Curves
from scimeta.calibration.importance import Gaussian, Points, student_nodes
from scimeta.calibration.law import Law
from scimeta.calibration.misfit import Basis, Misfit, Residuals, fit_misfit, held_out_gain
from scimeta.calibration.posterior import Measured, Posterior, measured, posterior
from scimeta.calibration.prior import Prior
from scimeta.calibration.units import find_named

_SURPLUS = 5  # points beyond the parameters from which a noise can be learned
_CHANCE = 5e-4  # that a misfit believed helps the specimens left out by luck


class _Population(NamedTuple):
    """The state of the iteration; attributes as in Prior."""

    coefficients: Tensor  # (1 + conditions, fast)
    covariance: Tensor  # (fast, fast)
    noise: float
    shared: dict[str, Tensor]
    errors: dict[str, float]  # standard errors of the shared parameters
    misfit: Misfit | None = None

    def law(self, past: _Past) -> Law:
        """Return the law as it stands, with the misfit if one is believed."""
        return past.law if self.misfit is None else self.misfit.corrected(past.law)


class _Past(NamedTuple):
    """What the iteration rests on."""

    law: Law
    data: Measured
    design: Tensor  # (specimens, 1 + conditions)


def learn_prior(
    law: Law,
    curves: Curves | Sequence[Curve],
    *,
    conditions: Sequence[str] = (),
    steps: int = 300,
    tolerance: float = 1e-3,
) -> Prior:
    """Return the population from which the curves' parameters were drawn, with the noise of a measurement.

    Empirical Bayes: maximises p(all curves | population, noise, shared values) by expectation maximisation. The E step
    is the posterior of every specimen, its mode solved to convergence and its moments by importance sampling
    (half-converged inner solves bias the population); the M step is closed: regression of the means on the conditions,
    their scatter plus the posterior covariances, the expected squared residual. The scatter is divided by specimens
    minus regressors (as in restricted maximum likelihood). Shared parameters take a scoring step on the marginal
    likelihood (Lindstrom and Bates's information). Where the residuals show that the law misses in the same
    way in every specimen, that misfit is learned too, see :class:`scimeta.calibration.misfit.Misfit`.

    Args:
        law: the law.
        curves: past specimens. Points with their own sigma keep it; the noise is learned from the others.
        conditions: names of the curves' conditions that move the population's mean, linearly in the unconstrained
            parameters (log for positive ones).
        steps: the most iterations.
        tolerance: the iteration ends when mean, standard deviations and noise change by less than this share of the
            population's standard deviations.

    Raises:
        ValueError: too few specimens, a condition that is missing or constant, units that differ from the law's,
            numbers that cannot be what the law describes.

    Reference: Dempster, Laird, Rubin, J. R. Stat. Soc. B 39, 1 (1977); Lindstrom, Bates, Biometrics 46, 673 (1990).

    >>> from scimeta.calibration.law import Parameter
    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> rng, times = np.random.default_rng(0), np.array([0.5, 1.0, 2.0, 3.0])
    >>> taus = np.exp(0.3 * rng.standard_normal(50))
    >>> past = [Curve(f"A{i}", times, np.exp(-times / t) + 0.02 * rng.standard_normal(4)) for i, t in enumerate(taus)]
    >>> prior = learn_prior(decay, past)
    >>> round(float(prior.covariance[0, 0]) ** 0.5, 1), round(prior.noise, 2)
    (0.3, 0.02)
    """
    if not isinstance(law, Law):
        raise TypeError(f"law must be a Law; got {law!r}")
    if isinstance(conditions, str):
        raise TypeError(f"conditions must be a list of names; pass [{conditions!r}]")
    data = measured(law, curves)
    conditions = tuple(find_named(name, curves[0].conditions) or name for name in conditions)
    design, centre, scale = _design(curves, conditions, len(law.fast))
    past = _Past(law, data, design)
    _require_surplus(past)
    start, population = _first_population(past, curves)
    bar = tqdm(total=2 * steps, desc="learn_prior", disable=None, delay=2, leave=False)
    with bar:
        population, found, converged = _iterate(past, population, start, steps, tolerance, bar)
        residuals, basis = _residuals(past, population, found)
        gain = held_out_gain(residuals, basis)
        resolved = basis.upper - basis.lower > 5.0 * population.noise
        needed = stats.t.isf(_CHANCE, len(gain) - 1) * float(gain.std()) / len(gain) ** 0.5
        if resolved and float(gain.mean()) > needed:
            population = population._replace(misfit=_misfit(past, population, found))
            population, found, converged = _iterate(past, population, found.mode, steps, tolerance, bar)
    if not converged:
        warnings.warn(
            f"learn_prior: no fixed point after {steps} iterations; the past may say too little of a parameter: give "
            "more specimens or points, simplify the law, or raise steps",
            stacklevel=2,
        )
    # What each specimen would have been at the conditions' centre, beside which the population is shown.
    at_centre = found.mean - (past.design - torch.eye(1, past.design.shape[1])) @ population.coefficients
    return Prior(
        law,
        population.coefficients.numpy(),
        population.covariance.numpy(),
        population.noise,
        conditions,
        centre,
        scale,
        {n: (float(v), population.errors[n]) for n, v in population.shared.items()},
        {curve.name: row for curve, row in zip(curves, at_centre.numpy(), strict=True)},
        (float(past.data.x.min()), float(past.data.x.max())),
        converged,
        population.misfit,
        _wander(past, population, found),
    )


def _iterate(
    past: _Past, population: _Population, start: Tensor, steps: int, tolerance: float, bar: tqdm
) -> tuple[_Population, Posterior, bool]:
    """Return population, posteriors and convergence of the expectation maximisation."""
    for _ in range(steps):
        law = population.law(past)
        prior = Gaussian(past.design @ population.coefficients, population.covariance)
        found = posterior(law, prior, population.shared, past.data.points(population.noise), start=start)
        start = found.mode
        updated = _maximize(past, population, found)
        bar.update()
        if _change(population, updated) < tolerance:
            fresh = posterior(law, prior, population.shared, past.data.points(population.noise))
            better = fresh.log_evidence > found.log_evidence + 0.5  # the specimen sat in a side valley
            if not better.any():
                return population, found, True
            start = torch.where(better[:, None], fresh.mode, start)
        population = updated
    return population, found, False


def _design(curves: Sequence[Curve], conditions: Sequence[str], fast: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return the design matrix (specimens, 1 + conditions) and each condition's centre and scale."""
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"two specimens are named {double!r}; give each its own name")
    least = len(conditions) + 1 + fast
    if len(curves) < least:
        raise ValueError(
            f"learn_prior needs at least {least} specimens for {fast} parameters and {len(conditions)} "
            f"conditions; got {len(curves)}"
        )
    for curve in curves:
        for name in conditions:
            if name not in curve.conditions:
                raise ValueError(
                    f"specimen {curve.name} has no condition {name!r}; it has {', '.join(curve.conditions) or 'none'}"
                )
    values = np.array([[curve.conditions[name] for name in conditions] for curve in curves], dtype=float)
    values = values.reshape(len(curves), len(conditions))
    centre, scale = values.mean(0), values.std(0)
    for name, size, middle in zip(conditions, scale, centre, strict=True):
        if size <= 1e-12 * max(abs(middle), 1e-300):
            raise ValueError(f"condition {name!r} is {middle:.6g} for every specimen; a constant cannot move the prior")
    design = np.column_stack([np.ones(len(curves)), (values - centre) / scale])
    if np.linalg.matrix_rank(design, tol=1e-8) < design.shape[1]:
        raise ValueError(f"the conditions {', '.join(conditions)} determine each other; leave one out")
    return torch.from_numpy(design), centre, scale


def _require_surplus(past: _Past) -> None:
    """Raise ValueError where too few points are left over to tell the noise from the spread of the specimens."""
    data, fast = past.data, len(past.law.fast)
    surplus = int((data.mask.sum(-1) - fast).clamp(min=0).sum())
    if (data.mask & ~data.given).any() and surplus < _SURPLUS:
        raise ValueError(
            f"the specimens have {surplus} points beyond the {fast} that each one's own parameters take up; the noise "
            f"cannot be told from the spread: give more points, or their sigma"
        )


def _first_population(past: _Past, curves: Sequence[Curve]) -> tuple[Tensor, _Population]:
    """Return modes under a wide prior, and the population that they suggest.

    Every specimen is first given all parameters as its own; the shared ones start from the medians.
    """
    data, design = past.data, past.design
    law = replace(past.law, parameters={n: replace(p, shared=False) for n, p in past.law.parameters.items()})
    spread = max(float(data.y[data.mask].std(correction=0)), 1e-300)
    points = data.points(0.1 * spread)
    start = _search(law, points) if law.first_guess is None else _guessed(law, curves)
    finite = torch.isfinite(_curve(law, start, {}, data.x)).all(-1)
    if not finite.all():
        name = curves[int(finite.byte().argmin())].name
        raise ValueError(f"law {law.name} is not finite at specimen {name!r} for any values tried; check fn")
    real = torch.tensor([parameter.support == "real" for parameter in law.parameters.values()])
    sd = torch.where(real, 1e4 * (1.0 + start.abs().max(0).values), 2.0)  # a real parameter may have any magnitude
    found = posterior(law, Gaussian(start, torch.diag(sd**2)), {}, points, start=start, nodes=1)
    every = torch.where(found.converged[:, None], found.mode, start)
    shared = {n: every[:, i].median() for i, n in enumerate(law.names) if n not in past.law.fast}
    mode = every[:, [i for i, name in enumerate(law.names) if name in past.law.fast]]
    coefficients = torch.linalg.lstsq(design, mode).solution
    coefficients[0] += (mode - design @ coefficients).median(0).values
    deviation = (mode - design @ coefficients).abs().median(0).values / 0.6745
    floor = torch.where(real[[n in past.law.fast for n in law.names]], 1e-3 * mode.abs().max(0).values, 0.05)
    covariance = torch.diag((2.0 * deviation).maximum(floor).clamp(min=1e-12) ** 2)
    r = (_curve(past.law, mode, shared, data.x) - data.y) * data.mask
    noise = float((r * r).sum(-1).median() / data.mask.sum(-1).double().median()) ** 0.5
    errors = dict.fromkeys(shared, np.inf)
    return mode, _Population(coefficients, covariance, max(noise, 1e-4 * spread), shared, errors)


def _guessed(law: Law, curves: Sequence[Curve]) -> Tensor:
    """Return (specimens, parameters): the law's first guess at every specimen."""
    guesses = [law.first_guess(curve.x, curve.y) for curve in curves]
    free = law.unconstrain({n: torch.tensor([g[n] for g in guesses], dtype=torch.float64) for n in law.names})
    return torch.stack(list(free.values()), -1)


def _search(law: Law, points: Points) -> Tensor:
    """Return (specimens, parameters): the best of widely scattered values, for a law without a first guess."""
    nodes = 2.0 * student_nodes(1021, len(law.names))[0]
    best = []
    for x, y, weight in zip(*points, strict=True):
        misfit = (((_curve(law, nodes, {}, x) - y) * weight) ** 2).sum(-1)
        best.append(nodes[misfit.nan_to_num(nan=torch.inf).argmin()])
    return torch.stack(best)


def _curve(law: Law, u: Tensor, shared: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the curves at fast parameters u: (..., fast)."""
    params = {name: u[..., i] for i, name in enumerate(law.fast)}
    return law.curve(params | {name: value.expand(u.shape[:-1]) for name, value in shared.items()}, x)


def _maximize(past: _Past, population: _Population, found: Posterior) -> _Population:
    """Return the population that the posteriors suggest (the M step)."""
    mean = found.mean
    coefficients = torch.linalg.lstsq(past.design, mean).solution
    scatter = mean - past.design @ coefficients
    covariance = scatter.T @ scatter / (len(mean) - past.design.shape[1]) + found.covariance.mean(0)
    # A direction in which all specimens are alike would otherwise shrink for ever.
    covariance = 0.5 * (covariance + covariance.T) + 1e-10 * torch.eye(len(covariance), dtype=covariance.dtype)
    shared, errors = _move_shared(past, population, found) if population.shared else ({}, {})
    misfit = None if population.misfit is None else _misfit(past, population, found)
    return _Population(coefficients, covariance, _noise(past, population, found), shared, errors, misfit)


def _noise(past: _Past, population: _Population, found: Posterior) -> float:
    """Return the root of the expected squared residual of the points that brought no sigma."""
    data = past.data
    free = data.mask & ~data.given
    if not free.any():  # the root mean square of the sigmas stands for points that bring none
        return float((data.sigma[data.given] ** 2).mean()) ** 0.5
    law = population.law(past)
    square = 0.0
    for rows in torch.arange(len(data.x)).split(64):
        curves = _curve(law, found.nodes[rows], population.shared, data.x[rows, None])
        r = torch.where(free[rows, None], curves - data.y[rows, None], 0.0)
        square += float((r.square().sum(-1) * found.weights[rows]).nan_to_num().sum())
    floor = 1e-6 * float(data.y[data.mask].abs().max())  # a past without noise: the weights stay finite
    return max((square / float(free.sum())) ** 0.5, floor)


def _linearized(past: _Past, population: _Population, found: Posterior, law: Law) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the law and its derivatives at every specimen's mode, each (specimens, points)."""
    params = {name: found.mode[:, i] for i, name in enumerate(law.fast)}
    params |= {name: value.expand(len(found.mode)) for name, value in population.shared.items()}
    return law.linearized({name: params[name] for name in law.names}, past.data.x)


def _residuals(past: _Past, population: _Population, found: Posterior) -> tuple[Residuals, Basis]:
    """Return what the law leaves at every specimen's mode, and the range of what it predicts."""
    curve, by = _linearized(past, population, found, past.law)
    inverse_sd, mask = past.data.points(population.noise).inverse_sd, past.data.mask
    sensitivity = torch.stack([d[mask] for d in by.values()], -1)
    specimen = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
    residuals = Residuals(curve[mask], sensitivity, (past.data.y - curve)[mask], inverse_sd[mask], specimen)
    lower, upper = float(curve[mask].min()), float(curve[mask].max())
    return residuals, Basis(lower, upper if upper > lower else lower + 1.0)


def _misfit(past: _Past, population: _Population, found: Posterior) -> Misfit:
    """Return what the law misses in the same way in all specimens."""
    residuals, basis = _residuals(past, population, found)
    return Misfit(*basis, fit_misfit(residuals, basis))


def _wander(past: _Past, population: _Population, found: Posterior) -> float:
    """Return the standard deviation of the smooth part of the residuals; 0 where they look like pure scatter.

    Scatter shows in the differences of neighbours, as half their mean square (von Neumann, Ann. Math. Stat. 12, 367,
    1941); what the whole variance has beyond that is smooth.
    """
    free = past.data.mask & ~past.data.given
    pairs = free[:, 1:] & free[:, :-1]
    count = int(pairs.sum())
    if count == 0:
        return 0.0
    square = 0.0
    for rows in torch.arange(len(pairs)).split(64):  # expected over the posteriors; curves at modes bend to the scatter
        curves = _curve(population.law(past), found.nodes[rows], population.shared, past.data.x[rows, None])
        difference = torch.where(pairs[rows, None], (curves - past.data.y[rows, None]).diff(dim=-1), 0.0)
        square += float((difference.square().sum(-1) * found.weights[rows]).nan_to_num().sum())
    whole, scatter = population.noise**2, 0.5 * square / count
    chance = 4.0 * (3.0 / count) ** 0.5 * whole  # four standard errors
    return (whole - scatter) ** 0.5 if whole - scatter > chance else 0.0


def _move_shared(past: _Past, population: _Population, found: Posterior) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the shared parameters after a scoring step on the marginal likelihood, and their standard errors.

    The score is the expectation over the posteriors (Fisher's identity); the information is that of the law linearised
    at the modes, y - f = J_shared step + J_fast deviation + noise.
    """
    information, score = _shared_information(past, population, found), _shared_score(past, population, found)
    step = torch.linalg.lstsq(information, score[:, None]).solution[:, 0]
    variance = torch.linalg.pinv(information, hermitian=True).diagonal().clamp(min=0.0)
    shared = {}
    for i, (name, value) in enumerate(population.shared.items()):
        real = past.law.parameters[name].support == "real"
        shared[name] = value + (step[i] if real else step[i].clamp(-1.0, 1.0))  # by a factor of e at most
    return shared, dict(zip(shared, variance.sqrt().tolist(), strict=True))


def _shared_information(past: _Past, population: _Population, found: Posterior) -> Tensor:
    """Return (shared, shared): information on the shared parameters, each specimen's own marginalised."""
    by = _linearized(past, population, found, population.law(past))[1]
    weight = past.data.points(population.noise).inverse_sd
    fast = torch.stack([by[name] * weight for name in past.law.fast], -1)  # (specimens, points, fast)
    slow = torch.stack([by[name] * weight for name in population.shared], -1)
    marginal = fast @ population.covariance @ fast.mT
    marginal = marginal + torch.eye(marginal.shape[-1], dtype=marginal.dtype)
    return (slow.mT @ torch.linalg.solve(marginal, slow)).sum(0)


def _shared_score(past: _Past, population: _Population, found: Posterior) -> Tensor:
    """Return (shared,): gradient of the log marginal likelihood by the shared parameters."""
    law, data, count = population.law(past), past.data, found.weights.shape[1]
    weight = data.points(population.noise).inverse_sd
    score = torch.zeros(len(population.shared), dtype=data.x.dtype)
    for rows in torch.arange(len(data.x)).split(64):
        nodes = found.nodes[rows].reshape(len(rows) * count, -1)
        params = {name: nodes[:, i] for i, name in enumerate(law.fast)}
        params |= {name: value.expand(len(nodes)) for name, value in population.shared.items()}
        curve, by = law.linearized({n: params[n] for n in law.names}, data.x[rows].repeat_interleave(count, 0))
        pull = (data.y[rows, None] - curve.reshape(len(rows), count, -1)) * weight[rows, None] ** 2
        pull = torch.nan_to_num(pull * found.weights[rows, :, None]).reshape(len(nodes), -1)
        score += torch.stack([(by[name] * pull).sum() for name in population.shared])
    return score


def _change(before: _Population, after: _Population) -> float:
    """Return the largest change, in standard deviations of the population."""
    sd, new = before.covariance.diagonal().sqrt(), after.covariance.diagonal().sqrt()
    moved = (after.coefficients - before.coefficients).abs().max(0).values / sd
    parts = [float(moved.max()), float((new / sd - 1.0).abs().max()), abs(after.noise / before.noise - 1.0)]
    correlation = before.covariance / sd.outer(sd) - after.covariance / new.outer(new)
    parts.append(float(correlation.abs().max()))
    parts += [abs(float(after.shared[name] - v)) / max(after.errors[name], 1e-300) for name, v in before.shared.items()]
    if after.misfit is not None and before.misfit is not None:
        parts.append(float(np.abs(after.misfit.values - before.misfit.values).max()) / after.noise)
    return max(parts)

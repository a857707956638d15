"""Learning a prior from past specimens by expectation maximisation with a converged inner solve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.family.conditions import coefficient_covariance, condition_value, resolved
from scimeta.calibration.family.prior import Mode, Prior
from scimeta.calibration.family.ranges import past_ranges
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.components import least_specimens
from scimeta.calibration.learning.em import Loop, State
from scimeta.calibration.learning.initial_values import first_population
from scimeta.calibration.learning.model_selection import refined
from scimeta.calibration.learning.population import Past
from scimeta.calibration.learning.residuals import wander
from scimeta.calibration.posterior.importance import weighted_covariance

_SURPLUS = 5  # points beyond the parameters from which a noise can be learned


def learn_prior(
    law: Law,
    curves: Curves | Sequence[Curve],
    *,
    conditions: Sequence[str] = (),
    modes: int | Literal["auto"] = "auto",
    objective: Literal["likelihood", "predictive"] = "likelihood",
    steps: int = 300,
    tolerance: float = 1e-3,
) -> Prior:
    """Return the population from which the curves' parameters were drawn, with the noise of a measurement.

    Empirical Bayes: maximises p(all curves | population, noise, shared values) by expectation maximisation. The E step
    is the posterior of every specimen, its mode solved to convergence and its moments by importance sampling
    (half-converged inner solves bias the population); the M step is closed: regression of the means on the conditions,
    their scatter plus the posterior covariances, the expected squared residual. The scatter is divided by specimens
    minus regressors (as in restricted maximum likelihood). Shared parameters take a scoring step on the marginal
    likelihood (Lindstrom and Bates's information).

    Four more things are learned where the past shows them, and left out where it does not: outliers among the points
    (:class:`Outliers`), several kinds of specimens, what the law misses in the same way
    in every specimen (:class:`Misfit`), and what it misses along x in each one's own way
    (:class:`Discrepancy`). A discrepancy is sought where there are no outliers, or
    where these gather in one part of x.

    Args:
        law: the law.
        curves: past specimens. Points with their own sigma keep it; the noise is learned from the others.
        conditions: what moves the population's mean, linearly in the unconstrained parameters (log for positive ones):
            names of the curves' conditions, or forms of them, "1/T", "log(dose)", "T^2". With "1/T" the logarithm of a
            rate has an activation energy, :meth:`Prior.activation_energy`; a temperature in degC counts in K there.
        modes: kinds of specimens that the population consists of, a Gaussian each; "auto" for as many as foretell
            specimens that were left out better than fewer do, one unless it is clear.
        objective: "likelihood" for empirical Bayes; "predictive" to move the means, from there, to where points held
            of the past are predicted best after a fit to the others. That is kept if it wins on specimens left out, and
            tried where there is one kind of specimens and no outliers.
        steps: the most iterations.
        tolerance: the iteration ends when mean, standard deviations and noise change by less than this share of the
            population's standard deviations.

    Raises:
        ValueError: too few specimens, more modes than they can carry, no step, a past of zeros, a condition that is
            missing or constant, units that differ from the law's, numbers that cannot be what the law describes.

    Reference: Dempster, Laird, Rubin, J. R. Stat. Soc. B 39, 1 (1977); Lindstrom, Bates, Biometrics 46, 673 (1990).

    >>> from scimeta.calibration.laws.law import Parameter
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
    if objective not in ("likelihood", "predictive"):
        raise ValueError(f'learn_prior: objective is "likelihood" or "predictive"; got {objective!r}')
    if isinstance(conditions, str):
        raise TypeError(f"conditions must be a list of names; pass [{conditions!r}]")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"learn_prior: steps must be a whole number, 1 or more; got {steps!r}")
    data = measured(law, curves)
    for curve in curves:
        if not len(curve):
            raise ValueError(f"specimen {curve.name} has no points, so that nothing is learned of it; leave it out")
    if not data.y[data.mask].any():
        raise ValueError("learn_prior: y is 0 at every point of every specimen; was the right column read?")
    conditions = tuple(resolved(name, curves[0].conditions) for name in conditions)
    design, centre, scale = _design(curves, conditions, len(law.fast))
    past = Past(law, data, design)
    _require_surplus(past)
    _require_modes(past, modes)
    start, population = first_population(past, curves)
    with tqdm(total=2 * steps, desc="learn_prior", disable=None, delay=2, leave=False) as bar:
        loop = Loop(past, steps, tolerance, bar)
        state = refined(loop, loop.run(population, start), modes, objective)
    if not state.converged:
        warnings.warn(
            f"learn_prior: no fixed point after {steps} iterations; the past may say too little of a parameter: give "
            "more specimens or points, simplify the law, or raise steps",
            stacklevel=2,
        )
    return _prior(past, curves, conditions, centre, scale, state)


def _prior(
    past: Past, curves: Sequence[Curve], conditions: tuple[str, ...], centre: np.ndarray, scale: np.ndarray, end: State
) -> Prior:
    """Return what was learned in the form that is kept."""
    population, found, converged = end
    shares, coefficients, covariances = population.modes
    weights = population.prior(past).memberships(found.nodes) * found.weights  # (modes, specimens, nodes)
    members = weights.sum(-1)
    whole = (shares[:, None, None] * coefficients).sum(0)
    moved = torch.einsum("sr,mrf->msf", past.design, coefficients - whole)
    apart = torch.einsum("m,msi,msj->ij", shares, moved, moved) / len(past.design)
    # What each specimen would have been at the conditions' centre, beside which the population is shown.
    slopes = torch.einsum("ms,mrf->srf", members, coefficients)
    offset = past.design - torch.eye(1, past.design.shape[1], dtype=past.design.dtype)
    at_centre = found.mean - torch.einsum("sr,srf->sf", offset, slopes)
    order = coefficients[:, 0, 0].argsort().tolist()
    own = [weighted_covariance(found.nodes, w / w.sum(-1, keepdim=True).clamp(min=1e-300)) for w in weights]
    errors = [coefficient_covariance(past.design, *part) for part in zip(covariances, own, members, strict=True)]
    kinds = tuple(Mode(float(shares[k]), coefficients[k].numpy(), covariances[k].numpy(), errors[k]) for k in order)
    covariance = (shares[:, None, None] * covariances).sum(0) + apart
    return Prior(
        past.law,
        whole.numpy(),
        covariance.numpy(),
        population.noise,
        conditions,
        centre,
        scale,
        {n: (float(v), population.errors[n]) for n, v in population.shared.items()},
        {curve.name: row for curve, row in zip(curves, at_centre.numpy(), strict=True)},
        (float(past.data.x.min()), float(past.data.x.max())),
        converged,
        population.misfit,
        wander(past, population, found),
        kinds if len(kinds) > 1 else (),
        population.outliers,
        None,
        population.discrepancy,
        "predictive" if population.hold_means else "likelihood",
        coefficient_covariance(past.design, covariance, found.covariance),
        past_ranges(conditions, curves),
    )


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
    values = np.empty((len(curves), len(conditions)))
    for i, curve in enumerate(curves):
        for j, name in enumerate(conditions):
            try:
                value = condition_value(name, curve.conditions)
            except ValueError as error:
                raise ValueError(f"specimen {curve.name}: {error}") from None
            if value is None:
                raise ValueError(
                    f"specimen {curve.name} has no condition {name!r}; it has {', '.join(curve.conditions) or 'none'}"
                )
            values[i, j] = value
    centre, scale = values.mean(0), values.std(0)
    for name, size, middle in zip(conditions, scale, centre, strict=True):
        if size <= 1e-12 * max(abs(middle), 1e-300):
            raise ValueError(f"condition {name!r} is {middle:.6g} for every specimen; a constant cannot move the prior")
    design = np.column_stack([np.ones(len(curves)), (values - centre) / scale])
    if np.linalg.matrix_rank(design, tol=1e-8) < design.shape[1]:
        raise ValueError(f"the conditions {', '.join(conditions)} determine each other; leave one out")
    return torch.from_numpy(design), centre, scale


def _require_modes(past: Past, modes: int | str) -> None:
    """Raise ValueError unless there are specimens enough for so many kinds."""
    if modes == "auto":
        return
    if isinstance(modes, bool) or not isinstance(modes, int | np.integer) or modes < 1:
        raise ValueError(f'learn_prior: modes must be "auto" or a whole number, 1 or more; got {modes!r}')
    least, count = least_specimens(past), len(past.design)
    if modes > 1 and modes * least > count:
        raise ValueError(
            f"learn_prior: {modes} modes need {modes * least} specimens, {least} each (parameters, conditions and two "
            f'more); there are {count}: ask for {max(count // least, 1)} at most, or for "auto"'
        )


def _require_surplus(past: Past) -> None:
    """Raise ValueError where too few points are left over to tell the noise from the spread of the specimens."""
    data, fast = past.data, len(past.law.fast)
    surplus = int((data.mask.sum(-1) - fast).clamp(min=0).sum())
    if (data.mask & ~data.given).any() and surplus < _SURPLUS:
        raise ValueError(
            f"the specimens have {surplus} points beyond the {fast} that each one's own parameters take up; the noise "
            f"cannot be told from the spread: give more points, or their sigma"
        )

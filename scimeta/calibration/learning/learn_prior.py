"""Learning a prior from past specimens by expectation maximisation with a converged inner solve."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.family.conditions import coefficient_covariance, resolved
from scimeta.calibration.family.error_model import KINDS, Kind
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.prior_report import single_level
from scimeta.calibration.family.provenance import Covariates, Learned, covariates_of
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.components import least_specimens
from scimeta.calibration.learning.em import Loop, State
from scimeta.calibration.learning.groups import group_indices, group_names
from scimeta.calibration.learning.initial_values import first_family
from scimeta.calibration.learning.m_step import maximize
from scimeta.calibration.learning.model_selection import refined
from scimeta.calibration.learning.past import Past
from scimeta.calibration.posterior.importance import weighted_covariance

_SURPLUS = 5  # points beyond the parameters from which a noise can be learned


def learn_prior(
    law: Law,
    curves: Curves | Sequence[Curve],
    *,
    conditions: Sequence[str] = (),
    groups: str | Sequence[str] | Mapping[str, str] | None = None,
    noise: Kind | Literal["auto"] = "auto",
    components: int | Literal["auto"] = "auto",
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

    More is learned where the past shows it by specimens, and groups, that are left out, and is not believed else: an
    error model (:class:`ErrorModel`), outliers among the points (:class:`Outliers`), several components of a mixture,
    what the law misses in all specimens and in each (:class:`Discrepancy`), and a covariance between groups. A
    discrepancy is sought where there are no outliers, or where these gather in one part of x.

    Args:
        law: the law.
        curves: past specimens. Points with their own sigma keep it; the noise is learned from the others.
        conditions: what moves the population's mean, linearly in the unconstrained parameters (log for positive ones):
            names of the curves' conditions, or forms of them, "1/T", "log(dose)", "T^2". With "1/T" the logarithm of a
            rate has an activation energy, :meth:`Prior.activation_energy`; a temperature in degC counts in K there. A
            condition that is text, such as a grade, has a mean for each of its levels, :meth:`Prior.level_effects`.
        groups: what the specimens come in (batch, laboratory): the name of a condition that is text, one label for each
            curve, or specimen -> label. A new specimen is taken to be of a new group. With two groups or more their
            covariance is learned, and what is believed must help groups that are left out.
        noise: how the scatter follows the mean; "auto" for what predicts specimens best that were left out, "constant"
            unless it is clear; "constant", "proportional", "combined" or "power" to insist.
        components: components of the mixture that the population is, a Gaussian each; "auto" for as many as predict
            specimens that were left out better than fewer do, one unless it is clear.
        objective: "likelihood" for empirical Bayes; "predictive" to move the means, from there, to where points held
            of the past are predicted best after a fit to the others. That is kept if it wins on specimens left out, and
            tried where there is one component, no outlier, no discrepancy and a constant noise.
        steps: the most iterations.
        tolerance: the iteration ends when mean, standard deviations and noise change by less than this share of the
            population's standard deviations.

    Raises:
        ValueError: too few specimens, more components than they can carry, no step, a past of zeros, a condition that
            is missing or constant, units that differ from the law's, numbers that cannot be what the law describes.

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
    if noise not in ("auto", *KINDS):
        raise ValueError(f'learn_prior: noise is "auto" or one of {", ".join(KINDS)}; got {noise!r}')
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
    covariates, design = covariates_of(curves, conditions, len(law.fast))
    for level in covariates.single:
        warnings.warn(f"learn_prior: {single_level(level)}", stacklevel=2)
    names = group_names(curves, groups)
    past = Past(data, torch.from_numpy(design), group_indices(names))
    _require_surplus(law, past)
    _require_components(law, past, components)
    start, family = first_family(law, past, curves)
    with tqdm(total=2 * steps, desc="learn_prior", disable=None, delay=2, leave=False) as bar:
        loop = Loop(past, steps, tolerance, bar)
        state = refined(loop, loop.run(family, start), components, objective, KINDS if noise == "auto" else (noise,))
    if not state.converged:
        warnings.warn(_why_not_converged(loop, state), stacklevel=2)
    return _prior(past, [curve.name for curve in curves], covariates, state, names)


def _why_not_converged(loop: Loop, state: State) -> str:
    """Return what keeps the iteration from its end, and what to do.

    Expectation maximisation lets a variance that is best zero shrink as 1 / iterations only, without end. Such a
    parameter is one whose standard deviation still shrinks although it is below half of what the points of a specimen
    leave open.
    """
    past, family = loop.past, state.family
    if state.mixed is not None:
        return (
            "learn_prior: what the law misses, or what lies between the groups, has not come to rest: give more "
            "specimens, or simplify the law"
        )
    found = loop.posterior(family, state.found.mode)
    after = maximize(past, family, found, hold_means=state.held_means)
    variance, new = (one.covariances.diagonal(dim1=-2, dim2=-1) for one in (family, after))  # (components, fast)
    by = family.linearized(found.mode, past.data.x)[1]
    slopes = family.points(past.data).whitened(torch.stack([by[name] for name in family.law.fast], 1))
    by_points = torch.linalg.pinv(slopes @ slopes.mT, hermitian=True).diagonal(dim1=-2, dim2=-1).median(0).values
    shrinking = ((new < variance * (1.0 - loop.tolerance)) & (variance < 0.25 * by_points)).any(0)
    names = [name for name, shrinks in zip(family.law.fast, shrinking.tolist(), strict=True) if shrinks]
    said = f"learn_prior: no fixed point after {loop.steps} iterations; "
    if not names:
        advice = "give more specimens or points, simplify the law, or raise steps"
        return f"{said}the past may say too little of a parameter: {advice}"
    which, it, them = " and ".join(names), *(("it", "it") if len(names) == 1 else ("each", "them"))
    return (
        f"{said}the standard deviation of {which} between the specimens still shrinks: they all seem to have one value "
        f"of {it}. Write Parameter(..., shared=True) for {them} in the law, or raise steps"
    )


def _prior(past: Past, names: Sequence[str], covariates: Covariates, end: State, groups: Sequence[str] | None) -> Prior:
    """Return what was learned in the form that is kept, the components in order of the first parameter."""
    order = end.family.coefficients[:, 0, 0].argsort()
    weights, coefficients, covariances = (
        part[order] for part in (end.family.weights, end.family.coefficients, end.family.covariances)
    )
    family, found = replace(end.family, weights=weights, coefficients=coefficients, covariances=covariances), end.found
    members = family.population(past.design).memberships(found.nodes) * found.weights
    each = members.sum(-1)
    # What each specimen would have been at the conditions' centre, beside which the population is shown.
    slopes = torch.einsum("ks,krf->srf", each, coefficients)
    offset = past.design - torch.eye(1, past.design.shape[1], dtype=past.design.dtype)
    at_centre = found.mean - torch.einsum("sr,srf->sf", offset, slopes)
    own = [weighted_covariance(found.nodes, w / w.sum(-1, keepdim=True).clamp(min=1e-300)) for w in members]
    levels = [1 + i for i, name in enumerate(covariates.names) if name in covariates.indicators]
    parts = zip(covariances, own, each, strict=True)
    errors = [coefficient_covariance(past.design, *part, levels) for part in parts]
    if end.mixed is not None:
        errors = [end.mixed.beta_covariance.numpy()]
    learned = Learned(
        dict(zip(names, at_centre.numpy(), strict=True)),
        (float(past.data.x.min()), float(past.data.x.max())),
        np.stack(errors),
        end.converged,
        "predictive" if end.held_means else "likelihood",
        {} if groups is None else dict(zip(names, groups, strict=True)),
        {}
        if groups is None or end.coverage is None
        else dict(zip(sorted(set(groups)), end.coverage.tolist(), strict=True)),
    )
    return Prior(family, covariates, learned)


def _require_components(law: Law, past: Past, components: int | str) -> None:
    """Raise ValueError unless there are specimens enough for so many components."""
    if components == "auto":
        return
    if isinstance(components, bool) or not isinstance(components, int | np.integer) or components < 1:
        raise ValueError(f'learn_prior: components must be "auto" or a whole number, 1 or more; got {components!r}')
    least, count = least_specimens(len(law.fast), past), len(past.design)
    if components > 1 and components * least > count:
        raise ValueError(
            f"learn_prior: {components} components need {components * least} specimens, {least} each (parameters, "
            f'conditions and two more); there are {count}: ask for {max(count // least, 1)} at most, or for "auto"'
        )


def _require_surplus(law: Law, past: Past) -> None:
    """Raise ValueError where too few points are left over to tell the noise from the spread of the specimens."""
    data, fast = past.data, len(law.fast)
    surplus = int((data.mask.sum(-1) - fast).clamp(min=0).sum())
    if (data.mask & ~data.given).any() and surplus < _SURPLUS:
        raise ValueError(
            f"the specimens have {surplus} points beyond the {fast} that each one's own parameters take up; the noise "
            f"cannot be told from the spread: give more points, or their sigma"
        )

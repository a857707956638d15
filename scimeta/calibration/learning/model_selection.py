"""What a past may show beyond one kind of specimens, a right law and plain noise; each is believed only if it helps."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.family.discrepancy import first_discrepancy
from scimeta.calibration.family.misfit import held_out_gain
from scimeta.calibration.family.mixture import widening
from scimeta.calibration.family.outliers import first_outliers
from scimeta.calibration.learning.components import GAIN, chosen_modes
from scimeta.calibration.learning.em import Loop, State
from scimeta.calibration.learning.population import Past, Population
from scimeta.calibration.learning.predictive import Belief, move_means, scores
from scimeta.calibration.learning.residuals import even_residuals, learned_misfit, residuals, wrong_points

_CHANCE = 5e-4  # that a misfit believed helps the specimens left out by luck
_CHANCE_GATHERED = 0.01  # that outliers prefer a part of x by luck
_CHANCE_MOVED = 0.025  # that they gain by moved means by luck: two standard errors
_NATS = 10.0  # of log likelihood that outliers must explain, three numbers more than a Gaussian has
_FEW = 20  # points below which no outliers are sought
_ALONE = 0.3  # of the outliers may have another one next to them, beyond chance
_MOST_WRONG = 0.3  # of the points may be outliers
_GLANCE, _TRIAL = 8, 25  # iterations of a first and a second look
_FOLDS, _MANY = 10, 25  # half as many of so many specimens


def refined(loop: Loop, state: State, modes: int | Literal["auto"], objective: str) -> State:
    """Return the state with all that the past shows; arguments as for ``learn_prior``.

    Outliers and a discrepancy exclude each other: the ones are independent of each other, the other joins neighbours.
    A discrepancy is sought where there are no outliers, and where these gather in one part of x; there it is preferred.
    """
    robust = _glimpsed_outliers(loop, state)
    gathered = robust is not None and _gathered(loop.past, robust)
    if robust is not None and not gathered:
        robust = _settled_outliers(loop, state, robust)
    if robust is None or gathered:
        plain = _with_discrepancy(loop, _with_misfit(loop, _with_modes(loop, state, modes)))
        if robust is not None and plain.population.discrepancy is None:
            robust = _settled_outliers(loop, state, robust)
        if robust is None or plain.population.discrepancy is not None:
            single = len(plain.population.modes.shares) == 1
            return _for_prediction(loop, plain) if single and objective == "predictive" else plain
    return _with_misfit(loop, _with_modes(loop, robust, modes))


def _glimpsed_outliers(loop: Loop, state: State) -> State | None:
    """Return the state with wrong points told from the noise, not yet converged, if the past seems to show any.

    They must not stand side by side: residuals that do so are the law's own misfit.
    """
    past, (population, found, _) = loop.past, state
    points = past.free
    if int(points.sum()) < _FEW:
        return None
    noise, outliers, gain = first_outliers(even_residuals(past, population, found)[points])
    if gain < _NATS:
        return None
    tried = loop.trial(population._replace(noise=noise, outliers=outliers), found.mode, _TRIAL)
    return tried if _scattered(past, tried) else None


def _settled_outliers(loop: Loop, state: State, glimpsed: State) -> State | None:
    """Return where the iteration with outliers ends, if they make the past likelier by more than chance could."""
    tried = loop.run(glimpsed.population, glimpsed.found.mode)
    likelier = float((tried.found.log_evidence - state.found.log_evidence).sum())
    return tried if likelier > _NATS and _scattered(loop.past, tried) else None


def _scattered(past: Past, state: State) -> bool:
    """Return True if the wrong points are few and alone."""
    wrong, share = wrong_points(past, state.population, state.found), state.population.outliers.share
    neighbours = float((wrong[:, 1:] * wrong[:, :-1]).sum()) / max(float(wrong.sum()), 1e-300)
    return neighbours < _ALONE + share and share < _MOST_WRONG


def _gathered(past: Past, state: State) -> bool:
    """Return True if outliers prefer one third of the x: wrong readings happen anywhere, a law misses somewhere."""
    wrong, x = (part[past.free].numpy() for part in (wrong_points(past, state.population, state.found), past.data.x))
    third = np.searchsorted(np.quantile(x, [1 / 3, 2 / 3]), x)
    points, found = (np.bincount(third, weights=w, minlength=3) for w in (np.ones_like(wrong), wrong))
    share = wrong.mean()
    distance = ((found - share * points) ** 2 / (share * (1.0 - share) * points.clip(min=1.0))).sum()
    return stats.chi2.sf(distance, 2) < _CHANCE_GATHERED


def _with_modes(loop: Loop, state: State, modes: int | Literal["auto"]) -> State:
    """Return the state with the population's kinds, if it has several.

    Kinds that nobody asked for must make the past likelier in full, too, not only on the few nodes that found them.
    """
    chosen = chosen_modes(loop.past, state.population, state.found, None if modes == "auto" else modes)
    if len(chosen.shares) == 1:
        return state
    begin = state.population._replace(modes=chosen)
    if modes == "auto":
        likelier = loop.posterior(begin, state.found.mode).log_evidence - state.found.log_evidence
        if not float(likelier.sum()) > GAIN:
            return state
    return loop.run(begin, state.found.mode)


def _with_misfit(loop: Loop, state: State) -> State:
    """Return the state with what the law misses in all specimens, if that helps specimens that were left out."""
    past, (population, found, _) = loop.past, state
    left, basis = residuals(past, population, found)
    gain = held_out_gain(left, basis)
    resolved = basis.upper - basis.lower > 5.0 * population.noise
    if not (resolved and _wins(gain, _CHANCE)):
        return state
    return loop.run(population._replace(misfit=learned_misfit(past, population, found)), found.mode)


def _with_discrepancy(loop: Loop, state: State) -> State:
    """Return the state with a discrepancy over x, if that helps specimens that it was not learned from."""
    past, (population, found, _) = loop.past, state
    before, specimens = found.log_evidence.sum(), len(past.design)
    first = first_discrepancy(past.data.x, past.data.mask, population.noise)
    if first is None or specimens < len(first.knots) + sum(past.design.shape[1:]) + len(past.law.fast):
        return state
    begin = population._replace(discrepancy=first)
    candidate = loop.trial(begin, found.mode, _GLANCE)
    if float(candidate.found.log_evidence.sum() - before) < 0.0:  # most laws, at a quarter of the price
        return state
    candidate = loop.trial(candidate.population, candidate.found.mode, _TRIAL)
    # Twice as many numbers as knots are learned from so many specimens (Schwarz, Ann. Stat. 6, 461, 1978).
    if float(candidate.found.log_evidence.sum() - before) < len(first.knots) * np.log(specimens):
        return state
    gain = torch.zeros(specimens, dtype=torch.float64)
    for out in _folds(specimens):
        rest, left = loop.some(~out), loop.some(out)
        for sign, trial in ((-1.0, population), (1.0, begin)):
            learned = rest.trial(trial, found.mode[~out], _TRIAL).population
            gain[out] += sign * left.posterior(learned, None).log_evidence
    tried = loop.run(candidate.population, found.mode) if float(gain.sum()) > 0.0 else state
    return tried if tried.converged else state


def _for_prediction(loop: Loop, state: State) -> State:
    """Return the state with means moved to where they predict best, if specimens left out agree."""
    past, (population, found, _) = loop.past, state
    gain = torch.zeros(len(past.design), dtype=torch.float64)
    for out in _folds(len(gain)):
        rest, left = loop.some(~out), past.some(out)
        learned = rest.trial(population, found.mode[~out], 2 * _GLANCE)
        moved = rest.trial(_moved(rest.past, learned.population), learned.found.mode, _GLANCE)
        its = (scores(_belief(rest.past, s.population), left.data, left.design) for s in (learned, moved))
        before, after = its
        gain[out] = before - after
    return loop.run(_moved(past, population), found.mode) if _wins(gain, _CHANCE_MOVED) else state


def _moved(past: Past, population: Population) -> Population:
    """Return the population with the means that predict best."""
    coefficients, discrepancy = move_means(_belief(past, population), past.data, past.design)
    modes = population.modes._replace(coefficients=coefficients[None])
    return population._replace(modes=modes, discrepancy=discrepancy, hold_means=True)


def _belief(past: Past, population: Population) -> Belief:
    """Return the population as it is expected of new specimens."""
    (count, regressors), (_, (coefficients,), (covariance,)) = past.design.shape, population.modes
    covariance = widening(count, regressors, len(past.law.fast)) * covariance
    discrepancy = population.discrepancy and population.discrepancy.predictive(count)
    return Belief(population.law(past), population.shared, coefficients, covariance, population.noise, discrepancy)


def _folds(count: int) -> list[Tensor]:
    """Return masks (specimens,) of those left out in turn."""
    folds = min(_FOLDS if count < _MANY else _FOLDS // 2, count)
    return [torch.arange(count) % folds == fold for fold in range(folds)]


def _wins(gain: Tensor, chance: float) -> bool:
    """Return True if gains, (specimens,), are larger than chance would bring so often."""
    needed = stats.t.isf(chance, len(gain) - 1) * float(gain.std()) / len(gain) ** 0.5
    return float(gain.mean()) > needed

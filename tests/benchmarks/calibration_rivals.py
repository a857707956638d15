"""What others make of the same points: the exact limit, the prior's mode, NUTS, `curve_fit`, the mean of the past."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import kinetics_rivals
import numpy as np
import torch
from kinetics_rivals import NOISE, Past, Predict, Prediction, avrami
from numpy import ndarray
from scipy.optimize import OptimizeWarning, curve_fit

from scimeta import Curve, Law, Prior
from simulators.kinetics import ONE_KIND, TWO_KINDS

SHIFT = 0.15  # of an outlier, with the sign of its noise
GRID = np.stack(np.meshgrid(np.linspace(-2.2, 2.2, 241), np.linspace(0.3, 5.2, 201), indexing="ij"), -1).reshape(-1, 2)

LIMIT = "limit (exact posterior, true population)"
MEAN_CURVE = "mean of the past curves"
CURVE_FIT = "curve_fit"
LAW_ALONE = "ours, the same prior without its discrepancy"


def law_alone(prior: Prior) -> Prior:
    """Return the prior without what it knows of the law's errors; the population and the noise stay."""
    return replace(prior, family=replace(prior.family, discrepancy=None))


def simulated_rivals(kinds: int, outliers: float) -> dict[str, Callable[[Past, ndarray], Predict]]:
    """Return name -> builder from the past and the times at which new alloys are seen."""
    return {
        LIMIT: lambda past, seen: limit(seen, kinds, outliers),
        "empirical Bayes, one Gaussian, MAP + Laplace": kinetics_rivals.empirical_bayes,
        "curve_fit, bounded": kinetics_rivals.bounded_curve_fit,
        MEAN_CURVE: mean_of_past,
    }


def limit(seen: ndarray, kinds: int, outliers: float) -> Predict:
    """The exact posterior under the true population and the true noise, on a grid of (ln k, n)."""
    return on_grid(seen, kinds, lambda off, _: _likelihood(np.abs(off) / NOISE, outliers))


def limit_of_noise(seen: ndarray, sd: Callable[[ndarray], ndarray]) -> Predict:
    """The same of one kind where the noise depends on the true fraction."""

    def likelihood(off: ndarray, truth: ndarray) -> ndarray:
        return np.exp(-0.5 * (off / sd(truth)) ** 2) / sd(truth)

    return on_grid(seen, 1, likelihood)


def on_grid(seen: ndarray, kinds: int, likelihood: Callable[[ndarray, ndarray], ndarray]) -> Predict:
    """The exact posterior on the grid, of residuals and true fractions, (grid, points) each, with this likelihood."""
    population = (ONE_KIND,) if kinds == 1 else TWO_KINDS
    prior = sum(_density(GRID, np.array(mean), np.array(covariance)) for mean, covariance in population)
    log_k, n = GRID[:, :1], GRID[:, 1:]
    at_seen = avrami(seen, np.exp(log_k), n)

    def one(y: ndarray, times: ndarray) -> list[ndarray]:
        weight = prior * likelihood(at_seen - y, at_seen).prod(1)
        kept = weight > 1e-9 * weight.max()
        rest, weight = avrami(times, np.exp(log_k[kept]), n[kept]), weight[kept] / weight[kept].sum()
        order = rest.argsort(0)
        below, ordered = weight[order].cumsum(0), np.take_along_axis(rest, order, 0)
        ends = [np.take_along_axis(ordered, (below >= p).argmax(0)[None], 0)[0] for p in (0.05, 0.95)]
        return [weight @ rest, *ends]

    return lambda _, fractions, times: Prediction(*np.stack([one(y, times) for y in fractions], 1))


def _density(theta: ndarray, mean: ndarray, covariance: ndarray) -> ndarray:
    """Return (points,) of a Gaussian, up to 2 pi."""
    offset = theta - mean
    square = np.einsum("gi,ij,gj->g", offset, np.linalg.inv(covariance), offset)
    return np.exp(-0.5 * square) / np.sqrt(np.linalg.det(covariance))


def _likelihood(size: ndarray, outliers: float) -> ndarray:
    """Return the density of residuals of this size in units of the noise, up to a constant."""
    if not outliers:
        return np.exp(-0.5 * size**2)
    beyond = size - SHIFT / NOISE  # an outlier lies beyond the shift, on the side of its noise
    return (1 - outliers) * np.exp(-0.5 * size**2) + outliers * np.where(beyond > 0, np.exp(-0.5 * beyond**2), 0.0)


def mean_of_past(past: Past, seen: ndarray) -> Predict:
    """The mean and the 90 % range of the past curves, whatever is seen."""
    lines = past.fraction.mean(0), *np.quantile(past.fraction, (0.05, 0.95), axis=0)

    def predict(_: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        return Prediction(*(np.tile(np.interp(times, past.time, line), (len(fractions), 1)) for line in lines))

    return predict


def mean_curve(past: Sequence[Curve], x: ndarray) -> ndarray:
    """Return (points,): the mean of the past curves that reach an x; that at the nearest where none does."""
    inside = np.array([np.where((x >= c.x[0]) & (x <= c.x[-1]), np.interp(x, c.x, c.y), np.nan) for c in past])
    outside = np.array([np.interp(x, c.x, c.y) for c in past]).mean(0)
    reach = np.isfinite(inside).any(0)
    return np.where(reach, np.nansum(inside, 0) / np.maximum(np.isfinite(inside).sum(0), 1), outside)


def fitted_alone(law: Law, x: ndarray, y: ndarray, at: ndarray) -> Prediction:
    """Return what `curve_fit` predicts from these points alone, from the law's own first guess.

    Without a past there is no noise to tell a band from; where it fails, the last reading stands for the rest.
    """

    def fn(x: ndarray, *values: float) -> ndarray:
        return law.fn(torch.tensor(x), *torch.tensor(values, dtype=torch.float64)).numpy()

    guess = law.first_guess(x, y)
    positive = [law.parameters[name].support != "real" for name in law.names]
    low = np.where(positive, 0.0, -np.inf)
    start = np.maximum([float(guess[name]) for name in law.names], np.where(positive, 1e-12, -np.inf))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            values, _ = curve_fit(fn, x, y, start, bounds=(low, np.inf))
            mean = fn(at, *values)
        except (RuntimeError, ValueError, TypeError):
            mean = np.full(len(at), np.nan)
    return Prediction(np.where(np.isfinite(mean), mean, y[-1]))

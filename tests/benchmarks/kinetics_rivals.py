"""What others do with the same alloys: each rival learns from the past and returns a function that predicts.

A rival is called with the past (times (points,), fractions (alloys, points)) and the times (m,) at which new alloys
are seen; what comes back predicts from fractions (specimens, m) the curves at any times. All rivals think in
theta = (ln k, n), the coordinates in which the simulated population is Gaussian, and bands are clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from scipy.optimize import curve_fit, least_squares

from scimeta.core.inner_loop import adapt
from scimeta.core.rules import Meta, learned_rates
from scimeta.core.tasks import over_tasks

if TYPE_CHECKING:
    import lmfit

NOISE = 0.02  # told to the rivals that take a sigma
BOUNDS = ((1e-2, 0.3), (1e2, 6.0))  # of (k, n), for curve_fit and lmfit
START = (1.0, 2.5)
Z90 = 1.6448536269514722
META_STEPS, META_BATCH, META_TRAINING = 5, 25, 2000
NUTS_WARMUP, NUTS_SAMPLES = 500, 1000


class Past(NamedTuple):
    """Curves of past alloys: time (points,) and fraction (alloys, points)."""

    time: ndarray
    fraction: ndarray


class Prediction(NamedTuple):
    """Mean curve and 90 % band, each (specimens, times); the band is None where a method has none."""

    mean: ndarray
    lower: ndarray | None = None
    upper: ndarray | None = None


Predict = Callable[[ndarray, ndarray, ndarray], Prediction]
"""Seen times (m,), seen fractions (specimens, m), times (times,) -> Prediction."""


def avrami(time: ndarray, k: ndarray, n: ndarray) -> ndarray:
    """Return X = 1 - exp(-(k t)^n) for positive times."""
    with np.errstate(over="ignore"):
        return -np.expm1(-np.exp(n * np.log(k * time)))


def avrami_jacobian(time: ndarray, log_k: float, n: float) -> ndarray:
    """Return the derivatives of X by (ln k, n), (points, 2)."""
    log_kt = log_k + np.log(time)
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.exp(n * log_kt)
        slope = np.nan_to_num(power * np.exp(-power))
    return np.stack([slope * n, slope * log_kt], -1)


def each(one: Callable[[ndarray, ndarray, ndarray], tuple[ndarray, ndarray | None]]) -> Predict:
    """Return a Predict from a function of one specimen that gives its mean and the standard deviation of its mean."""

    def predict(seen: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        pairs = [one(seen, y, times) for y in fractions]
        mean = np.stack([mean for mean, _ in pairs])
        if pairs[0][1] is None:
            return Prediction(mean)
        half = Z90 * np.stack([sd for _, sd in pairs])
        return Prediction(mean, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1))

    return predict


def bounded_curve_fit(past: Past, seen: ndarray) -> Predict:
    """`scipy.optimize.curve_fit` on (k, n) within bounds, band by the delta method with the true noise."""
    return each(one_curve_fit)


def one_curve_fit(t: ndarray, y: ndarray, times: ndarray) -> tuple[ndarray, ndarray]:
    """Return the fitted curve of one specimen and the standard deviation of it."""
    (k, n), covariance = fit_by_curve_fit(t, y)
    return avrami(times, k, n), curve_sd(times, (np.log(k), n), covariance / np.outer((k, 1), (k, 1)))


def fit_by_curve_fit(t: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    """Return (k, n) and their covariance."""
    return curve_fit(avrami, t, y, START, np.full(len(t), NOISE), absolute_sigma=True, bounds=BOUNDS)


def curve_sd(times: ndarray, theta: ndarray, covariance: ndarray) -> ndarray:
    """Return the curve's standard deviation from the covariance of (ln k, n); nan where that is not finite."""
    if not np.isfinite(covariance).all():
        return np.full(len(times), np.nan)
    jacobian = avrami_jacobian(times, *theta)
    return np.sqrt(np.einsum("ti,ij,tj->t", jacobian, covariance, jacobian).clip(0))


def bounded_lmfit(past: Past, seen: ndarray) -> Predict:
    """lmfit's `Model.fit` with the same start, bounds and noise; the delta-method band from its covariance."""
    by_lmfit = fit_by_lmfit()

    def one(t: ndarray, y: ndarray, times: ndarray) -> tuple[ndarray, ndarray]:
        fit = by_lmfit(t, y)
        k, n = fit.best_values["k"], fit.best_values["n"]
        covariance = np.full((2, 2), np.inf) if fit.covar is None else fit.covar
        return avrami(times, k, n), curve_sd(times, (np.log(k), n), covariance / np.outer((k, 1), (k, 1)))

    return each(one)


def fit_by_lmfit() -> Callable[[ndarray, ndarray], lmfit.model.ModelResult]:
    """Return the function of (t, y) that fits with lmfit."""
    import lmfit

    model = lmfit.Model(avrami)
    start = model.make_params(**{name: {"value": START[i], "min": BOUNDS[0][i], "max": BOUNDS[1][i]}
                                 for i, name in enumerate("kn")})  # fmt: skip

    def fit(t: ndarray, y: ndarray) -> lmfit.model.ModelResult:
        return model.fit(y, start, time=t, weights=np.full(len(t), 1 / NOISE), scale_covar=False)

    return fit


def avrami_plot(past: Past, seen: ndarray) -> Predict:
    """The line ln(-ln(1 - X)) = n ln k + n ln t through the points with 0 < X < 1; the past's mean without one."""

    def one(t: ndarray, y: ndarray, times: ndarray) -> tuple[ndarray, None]:
        drawn = (y > 0) & (y < 1)
        if drawn.sum() < 2:
            return np.interp(times, past.time, past.fraction.mean(0)), None
        n, intercept = np.polyfit(np.log(t[drawn]), np.log(-np.log1p(-y[drawn])), 1)
        with np.errstate(over="ignore"):
            return -np.expm1(-np.exp(intercept + n * np.log(times))), None

    return each(one)


def empirical_bayes(past: Past, seen: ndarray, rounds: int = 30) -> Predict:
    """Population and noise by EM on the past (Laplace in the E step), then MAP and Laplace for each new alloy."""
    mean, covariance, noise = np.array([0.0, 2.0]), np.eye(2), 0.05
    modes = np.tile(mean, (len(past.fraction), 1))
    for _ in range(rounds):
        before = np.concatenate([mean, covariance.ravel()])
        fits = [_mode(past.time, y, mean, covariance, noise, start)
                for y, start in zip(past.fraction, modes, strict=True)]  # fmt: skip
        modes, spreads = np.stack([mode for mode, _ in fits]), np.stack([spread for _, spread in fits])
        mean = modes.mean(0)
        covariance = np.cov(modes.T) + spreads.mean(0)
        misfit = np.stack([avrami(past.time, np.exp(a), n) for a, n in modes]) - past.fraction
        jacobians = np.stack([avrami_jacobian(past.time, *mode) for mode in modes])
        noise = np.sqrt(np.mean(misfit**2 + np.einsum("ati,aij,atj->at", jacobians, spreads, jacobians)))
        if np.abs(np.concatenate([mean, covariance.ravel()]) - before).max() < 1e-4:
            break

    def one(t: ndarray, y: ndarray, times: ndarray) -> tuple[ndarray, ndarray]:
        mode, spread = _mode(t, y, mean, covariance, noise, mean)
        return avrami(times, np.exp(mode[0]), mode[1]), curve_sd(times, mode, spread)

    return each(one)


def _mode(
    t: ndarray, y: ndarray, mean: ndarray, covariance: ndarray, noise: float, start: ndarray
) -> tuple[ndarray, ndarray]:
    """Return the mode of one specimen and its Laplace covariance."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))

    def residuals(theta: ndarray) -> ndarray:
        return np.concatenate([(avrami(t, np.exp(theta[0]), theta[1]) - y) / noise, whiten @ (theta - mean)])

    def jacobian(theta: ndarray) -> ndarray:
        return np.concatenate([avrami_jacobian(t, *theta) / noise, whiten])

    fit = least_squares(residuals, start, jacobian, method="lm")
    return fit.x, np.linalg.inv(fit.jac.T @ fit.jac)


def meta_sgd(past: Past, seen: ndarray, training: int = META_TRAINING) -> Predict:
    """Meta-SGD on raw (k, n): start and a rate for each learned through five steps.

    A past alloy is a task: its support are the points nearest to the times at which new alloys are seen, its query the
    rest, so that training resembles the use.
    """
    time = torch.from_numpy(past.time)
    support = np.unique(np.abs(past.time[:, None] - seen).argmin(0))
    query = np.setdiff1d(np.arange(len(past.time)), support)

    def loss(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        t, y = data
        power = params["n"] * (params["k"].clamp(min=1e-3) * t).log()
        return ((-torch.expm1(-torch.exp(power.clamp(max=30.0))) - y) ** 2).mean()

    init = {"k": torch.tensor(START[0], dtype=torch.float64), "n": torch.tensor(START[1], dtype=torch.float64)}
    rule = learned_rates(init, 0.5)
    meta = Meta({n: p.clone().requires_grad_() for n, p in init.items()},
                {n: p.clone().requires_grad_() for n, p in rule.params.items()})  # fmt: skip
    optimizer = torch.optim.Adam([*meta.init.values(), *meta.rule.values()], lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def adapted_loss(y: torch.Tensor) -> torch.Tensor:
        return loss(adapt(loss, rule, meta, (time[support], y[support]), META_STEPS), (time[query], y[query]))

    fractions = torch.from_numpy(past.fraction)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training)
    for _ in range(training):
        batch = fractions[torch.randint(len(fractions), (META_BATCH,), generator=generator)]
        optimizer.zero_grad()
        over_tasks(adapted_loss)(batch).mean().backward()
        torch.nn.utils.clip_grad_norm_([*meta.init.values(), *meta.rule.values()], 1.0)
        optimizer.step()
        schedule.step()
    learned = Meta(*({n: p.detach() for n, p in part.items()} for part in meta))

    def one(t: ndarray, y: ndarray, times: ndarray) -> tuple[ndarray, None]:
        params = adapt(loss, rule, learned, (torch.from_numpy(t), torch.from_numpy(y)), META_STEPS)
        return avrami(times, params["k"].clamp(min=1e-3).item(), params["n"].item()), None

    return each(one)


def nuts(past: Past, seen: ndarray, warmup: int = NUTS_WARMUP, samples: int = NUTS_SAMPLES) -> Predict:
    """NumPyro's NUTS on the whole hierarchical model: past and all new alloys in one chain.

    That is the strong version: nothing is plugged in, and its cost is shared by all the new alloys.
    """
    import jax
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    jnp = jax.numpy

    def curve(theta: jax.Array, time: ndarray) -> jax.Array:
        power = theta[..., 1:] * (theta[..., :1] + jnp.log(time))
        return -jnp.expm1(-jnp.exp(jnp.minimum(power, 30.0)))

    def model(fractions: ndarray) -> None:
        mean = numpyro.sample("mean", dist.Normal(jnp.array([0.0, 2.0]), 2.0).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(jnp.ones(2)).to_event(1))
        factor = sd[:, None] * numpyro.sample("correlation", dist.LKJCholesky(2))
        noise = numpyro.sample("noise", dist.HalfNormal(0.1))
        population = dist.MultivariateNormal(mean, scale_tril=factor)
        old = numpyro.sample("old", population.expand([len(past.fraction)]).to_event(1))
        new = numpyro.sample("new", population.expand([len(fractions)]).to_event(1))
        numpyro.sample("past", dist.Normal(curve(old, past.time), noise).to_event(2), obs=past.fraction)
        numpyro.sample("seen", dist.Normal(curve(new, seen), noise).to_event(2), obs=fractions)

    def predict(_: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        start = numpyro.infer.init_to_value(values={
            "mean": jnp.array(START) - jnp.array([1.0, 0.0]),
            "old": jnp.tile(jnp.array([0.0, START[1]]), (len(past.fraction), 1)),
            "new": jnp.tile(jnp.array([0.0, START[1]]), (len(fractions), 1)),
        })  # fmt: skip
        chain = MCMC(NUTS(model, init_strategy=start), num_warmup=warmup, num_samples=samples, progress_bar=False)
        chain.run(jax.random.PRNGKey(0), fractions)
        theta = np.asarray(chain.get_samples()["new"])  # (samples, specimens, 2)
        curves = avrami(times, np.exp(theta[..., :1]), theta[..., 1:])  # (samples, specimens, times)
        return Prediction(curves.mean(0), *np.quantile(curves, (0.05, 0.95), axis=0))

    return predict

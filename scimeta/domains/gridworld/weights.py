"""What is worth how much: the reward weights of a new goal from a handful of rewards.

A reward is phi . w + noise, and w is one more fast parameter with a prior, that over goals. On a law that is linear in
its parameters one Gauss-Newton step is the whole posterior. It is taken here through a singular value decomposition,
which also holds where rewards have no noise or leave directions of w open.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray
from scipy import special

from scimeta.calibration.family.prior import Prior
from scimeta.calibration.intervals import Estimate, probability
from scimeta.domains.gridworld.goals import check_names
from scimeta.domains.gridworld.whitened import Whitened, mixture_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WIDE = 1e3  # standard deviations of weights without a prior, in units of what the rewards suggest
_OPEN = 1e-12  # squared share of a weight in directions that no reward told of, above which it was not learned
_SURPRISE = 1e-4  # probability below which rewards are said to contradict the features
_EXACT = 1e-6  # share of the rewards that rounding may leave unexplained where there is no noise


@dataclass(frozen=True, eq=False)
class Weights:
    """The posterior of a goal's reward weights; ``found["park"]`` is an Estimate.

    Attributes:
        names: of the weights.
        mean: (d,).
        covariance: (d, d).
        lower: (d,) lower ends of the intervals; with an unknown noise those of the heavy-tailed average over it. -inf
            where there is neither a prior nor a reward that tells of the weight by itself.
        upper: (d,) upper ends.
        before: (d,) standard deviations under the prior; inf where there was none.
        sigma: standard deviation of a reward's noise, as given or as estimated.
        rewards: number of rewards seen.
        level: probability of the intervals.
        chance: probability of rewards that fit as badly, whatever the weights; 1 where the noise was not known.
    """

    names: tuple[str, ...]
    mean: ndarray
    covariance: ndarray
    lower: ndarray
    upper: ndarray
    before: ndarray
    sigma: float
    rewards: int
    level: float = 0.9
    chance: float = 1.0

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def std(self) -> ndarray:
        """(d,) standard deviations; inf where the interval has no ends."""
        return np.where(np.isinf(self.upper), np.inf, np.sqrt(np.diag(self.covariance)))

    @property
    def from_data(self) -> ndarray:
        """(d,) share of what is known of each weight that the rewards have told: 1 - variance / prior variance.

        Without a prior both are infinite unless the rewards determine the weight. It is then 1, and otherwise 0: a
        weight never met, or only ever together with another, may still have any value.
        """
        flat = np.isinf(self.before)
        share = 1.0 - (self.std / np.where(flat, 1.0, self.before)) ** 2
        return np.where(flat, np.isfinite(self.upper), share.clip(0.0, 1.0))

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.names:
            raise KeyError(f"Unknown weight {name!r}; there are {', '.join(self.names)}")
        i = self.names.index(name)
        value, std, lower, upper, share = (
            float(each[i]) for each in (self.mean, self.std, self.lower, self.upper, self.from_data)
        )
        return Estimate(name, value, lower, upper, self.level, "", std, share)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """name -> Estimate."""
        return {name: self[name] for name in self.names}

    def sample(self, n: int, rng: np.random.Generator) -> ndarray:
        """Return (n, d) draws of the Gaussian of this mean and covariance.

        For each, successor features give a value and a best route.
        """
        roots, directions = np.linalg.eigh(self.covariance)
        return self.mean + rng.standard_normal((n, len(self))) @ (directions * np.sqrt(roots.clip(min=0.0))).T

    def to_frame(self) -> pd.DataFrame:
        """Return one row a weight: value, lower, upper, std, from_data."""
        import pandas as pd

        parts = ("value", "lower", "upper", "std", "from_data")
        rows = {name: [getattr(estimate, part) for part in parts] for name, estimate in self.estimates.items()}
        return pd.DataFrame.from_dict(rows, "index", columns=list(parts))

    def __str__(self) -> str:
        table = self.to_frame()
        shown = table if len(self) <= 20 else table.loc[table["value"].abs().sort_values(ascending=False).index[:20]]
        more = "" if len(self) <= 20 else f"\n... and {len(self) - 20} smaller ones; to_frame() has all"
        head = f"reward weights from {self.rewards} rewards, noise sd {self.sigma:.3g}, {self.level:.0%} intervals"
        head += "" if self.chance >= _SURPRISE else f"\n{_contradiction(self.chance, self.sigma)}"
        return f"{head}\n{shown.to_string(float_format=lambda v: f'{v:.4g}')}{more}"

    def plot(self, ax: Axes | None = None, truth: ndarray | None = None) -> Axes:
        """Draw each weight that was learned with its interval, and the true ones (d,) where they are known."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        reach = np.stack([self.mean - self.lower, self.upper - self.mean]).clip(min=0.0)
        ax.axhline(0.0, color="0.7", lw=0.8)
        known = np.isfinite(reach).all(axis=0)
        ax.errorbar(
            np.flatnonzero(known),
            self.mean[known],
            reach[:, known],
            fmt="o",
            capsize=3,
            label=f"{self.level:.0%} interval",
        )
        if truth is not None:
            ax.plot(range(len(self)), truth, "x", color="k", label="truth")
        if len(self) <= 20:
            ax.set_xticks(range(len(self)), self.names, rotation=30, ha="right")
        ax.set(ylabel="reward weight", title=f"after {self.rewards} rewards")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax


def learn_weights(
    features: ndarray,
    rewards: ndarray,
    prior: Prior | None = None,
    sigma: float | None = None,
    *,
    names: Sequence[str] | None = None,
    level: float = 0.9,
) -> Weights:
    """Return the posterior of w after rewards r = phi . w + noise.

    Args:
        features: (n, d) features phi of the states entered.
        rewards: (n,) their rewards; n may be 0 where there is a prior.
        prior: over goals, of :func:`goal_prior` or ``calibration.learn_prior``; none if None.
        sigma: standard deviation of the noise; 0 for rewards without noise. None: not known. It is then a log-normal
            variable, a decade wide, about the prior's noise (without a prior, a tenth of the rewards' root mean
            square), and the posterior is averaged over it.
        names: of the weights; the prior's, or w0, w1, ...
        level: probability of the intervals.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite (named), a negative sigma; rewards without noise
            that no weights give.

    Warns:
        RuntimeWarning: the rewards lie further from any weights than sigma allows (chi-square below 1e-4).

    >>> found = learn_weights(np.eye(2)[[0, 1, 1]], np.array([1.0, 4.0, 4.0]), sigma=0.0, names=["park", "station"])
    >>> found.mean.round(9), found["park"].value
    (array([1., 4.]), 1.0)
    """
    features, rewards = _checked(features, rewards)
    if prior is None and not len(rewards):
        raise ValueError("learn_weights: without a prior at least one reward is needed; got none")
    if sigma is not None and not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"learn_weights: sigma must be 0 or more, or None where it is not known; got {sigma}")
    size = features.shape[1]
    scale = float(np.sqrt((rewards**2).mean())) if rewards.any() else 1.0
    if prior is None:
        largest = np.abs(features).max(axis=0)  # each weight in its own unit
        width = max(scale, sigma or 0.0) / np.where(largest > 0, largest, largest.max() or 1.0)
        mean, root, noise = np.zeros(size), _WIDE * np.diag(width), 0.1 * scale
    else:
        mean, root, noise = *_population(prior, size), prior.noise
    names = check_names(names if names is not None or prior is None else prior.law.fast, size, "learn_weights")
    data = Whitened(features @ root, rewards - features @ mean)
    chance = 1.0 if sigma is None else _fit(data, float(sigma), rewards)
    sigmas, share = data.noises(noise) if sigma is None else (np.array([sigma], dtype=float), np.ones(1))
    z, variances = data.posterior(sigmas)
    means, axes = mean + z @ root.T, root @ data.right.T
    centre = share @ means
    apart = means - centre
    found = (axes * (share @ variances)) @ axes.T + (share[:, None] * apart).T @ apart
    level = probability(level)
    ends = [
        mixture_quantile(share, means, np.sqrt(variances @ (axes**2).T), 0.5 + side * level) for side in (-0.5, 0.5)
    ]
    before = np.sqrt((root**2).sum(1))
    if prior is None:
        before[:] = np.inf
        unlearned = (data.right[share @ variances > 0.5] ** 2).sum(0) > _OPEN
        for end, infinite in zip(ends, (-np.inf, np.inf), strict=True):
            end[unlearned] = infinite
    sigma = float(np.exp(share @ np.log(sigmas))) if sigma is None else float(sigma)
    return Weights(names, centre, 0.5 * (found + found.T), *ends, before, sigma, len(rewards), level, chance)


class Place(NamedTuple):
    """Where to look next.

    Attributes:
        state: the most informative one.
        gains: (states,) information that one reward there gives, nats (per step of travel where that was asked); 0
            where no way leads.
    """

    state: int
    gains: ndarray


def next_place(
    found: Weights, features: ndarray, *, steps: ndarray | None = None, value: ndarray | None = None
) -> Place:
    """Return the state whose reward would teach most: 1/2 log(variance before / after), in nats.

    Args:
        found: what is known of the weights.
        features: (states, d) of each state.
        steps: (states,) steps to each; the gain is then per step, and states at inf are left out. A state where the
            agent is counts as one step away.
        value: (d,) successor features of a start under a policy: then the gain is about the value there, u . w; None
            for all of w.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, no state that can be reached.

    >>> found = learn_weights(np.eye(2)[[0, 0, 0]], np.array([1.0, 1.1, 0.9]), sigma=0.1)
    >>> next_place(found, np.eye(2)).state
    1
    """
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or features.shape[1] != len(found) or not np.isfinite(features).all():
        raise ValueError(f"next_place: features must be (states, {len(found)}), finite; got shape {features.shape}")
    reach = features @ found.covariance  # (states, d)
    variance = (reach * features).sum(1)
    noise = max(found.sigma**2, 1e-9 * float(variance.max(initial=1e-300)))  # without noise the gain would be infinite
    if value is None:
        gains = 0.5 * np.log1p(variance.clip(min=0.0) / noise)
    else:
        value = np.asarray(value, dtype=float)
        if value.shape != (len(found),) or not np.isfinite(value).all():
            raise ValueError(f"next_place: value must be ({len(found)},) finite features; got shape {value.shape}")
        before = max(float(value @ found.covariance @ value), 1e-300)
        explained = (reach @ value) ** 2 / (variance + noise) / before
        gains = -0.5 * np.log1p(-explained.clip(max=1.0 - 1e-9))
    if steps is not None:
        steps = np.asarray(steps, dtype=float)
        if steps.shape != gains.shape or np.isnan(steps).any() or not np.isfinite(steps).any() or steps.min() < 0:
            raise ValueError(f"next_place: steps must be ({len(gains)},), 0 or more, some finite; got {steps.shape}")
        gains = gains / np.maximum(steps, 1.0)
    return Place(int(gains.argmax()), gains)


def _fit(data: Whitened, sigma: float, rewards: ndarray) -> float:
    """Return the probability of residuals across the features as large as these; raise or warn where it is tiny."""
    rounding = _EXACT * float(np.linalg.norm(rewards))
    if sigma == 0 and np.sqrt(data.across) > rounding:
        raise ValueError(
            f"learn_weights: no weights give these rewards; the closest leave {np.sqrt(data.across):.3g} (root of the "
            "squares' sum). The same features must have the same reward where sigma is 0; pass sigma, or None, or add "
            "the feature that is missing"
        )
    if sigma == 0 or not data.freedom:
        return 1.0
    chance = float(special.chdtrc(data.freedom, data.across / sigma**2))
    if chance < _SURPRISE:
        warnings.warn(f"learn_weights: {_contradiction(chance, sigma)}", RuntimeWarning, stacklevel=3)
    return chance


def _contradiction(chance: float, sigma: float) -> str:
    return (
        f"the rewards contradict the features: noise of sd {sigma:.3g} misses them by as much with probability "
        f"{chance:.1g}; pass a larger sigma, or None, or add the feature that is missing"
    )


def _population(prior: Prior, size: int) -> tuple[ndarray, ndarray]:
    """Return mean (d,) of the prior's population and a root (d, d) of its covariance."""
    if not isinstance(prior, Prior):
        raise TypeError(f"learn_weights: prior must be a Prior, of goal_prior; got {type(prior).__name__}")
    if len(prior.law.fast) != size or prior.conditions:
        raise ValueError(
            f"learn_weights: the prior is over {prior.law.describe()}"
            + (f" given {', '.join(prior.conditions)}" if prior.conditions else "")
            + f"; the features have {size} columns: they must be as many, and the prior without conditions"
        )
    gaussian = prior.gaussian(prior.design([{}]))
    return gaussian.mean[0].numpy(), np.linalg.cholesky(gaussian.covariance.numpy())


def _checked(features: ndarray, rewards: ndarray) -> tuple[ndarray, ndarray]:
    features, rewards = np.asarray(features, dtype=float), np.asarray(rewards, dtype=float)
    if features.ndim != 2 or rewards.shape != features.shape[:1] or not features.shape[1]:
        raise ValueError(
            f"learn_weights: features must be (n, d) and rewards (n,); got {features.shape} and {rewards.shape}"
        )
    for name, values in (("rewards", rewards), ("features", features)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            index = tuple(bad[0].tolist())
            raise ValueError(
                f"learn_weights: {name}{list(index)} is {values[index]}; drop that reward or correct it "
                f"({len(bad)} values are not finite)"
            )
    return features, rewards

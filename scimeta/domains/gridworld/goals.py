"""Goals as weight vectors: the law of their rewards, and what past goals say of the next.

The reward of a state is phi . w, a law linear in its parameters w, for ``scimeta.calibration`` like any other; what
past goals were like is a ``Prior`` of that law.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Learned
from scimeta.calibration.laws.law import Law, Parameter


def reward_law(features: ndarray, names: Sequence[str] | None = None) -> Law:
    """Return the law reward(x) = phi[x] . w, whose parameters are the weights, for the package's calibration.

    Args:
        features: (states, d) of each state; the law's x is the state.
        names: of the weights; w0, w1, ... if None.

    Returns: the law; nan where x is no state.

    >>> law = reward_law(np.eye(2), ["park", "station"])
    >>> law(torch.tensor([1.0, 0.0]), park=3.0, station=-1.0)
    tensor([-1.,  3.])
    """
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or 0 in features.shape or not np.isfinite(features).all():
        raise ValueError(f"reward_law: features must be (states, d), finite; got shape {features.shape}")
    names = check_names(names, features.shape[1], "reward_law")
    table = torch.from_numpy(features)

    def reward(x: Tensor, **weights: Tensor) -> Tensor:
        state = x.detach().round()
        inside = (state >= 0) & (state < len(table))
        rows = table.to(x.dtype)[torch.where(inside, state, 0).long()]
        rows = torch.where(inside[..., None], rows, torch.nan)
        return sum(rows[..., i] * weights[name] for i, name in enumerate(names))

    return Law("reward", reward, {name: Parameter() for name in names}, Axis("state"), Axis("reward"))


def goal_prior(
    past: ndarray,
    *,
    noise: float | None = None,
    features: ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Prior:
    """Return what past goals say of the next: a Gaussian over weight vectors, a Prior of the calibration.

    The covariance is Ledoit and Wolf's: drawn towards a multiple of the identity as far as there are few goals. The
    Prior itself is wider than that where goals are few (Student's t), see ``Prior.gaussian``.

    Args:
        past: (goals, d) weight vectors of two past goals or more.
        noise: standard deviation of a reward's noise among them; a tenth of the weights' root mean square if None.
        features: (states, d) of the city whose states the calibration's x shall be (for ``Calibrator`` and the
            Prior's plot; ``learn_weights`` brings its own); x is the weight's number if None.
        names: of the weights; w0, w1, ... if None.

    Raises:
        ValueError: fewer than two goals, numbers that are not finite, goals that are all the same.

    Reference: Ledoit, Wolf, J. Multivar. Anal. 88, 365 (2004).

    >>> prior = goal_prior(np.random.default_rng(0).normal([1.0, -2.0], [0.1, 1.0], (500, 2)), names=["park", "toll"])
    >>> prior.coefficients.round(1), np.sqrt(np.diag(prior.covariance)).round(1)
    (array([[ 1., -2.]]), array([0.1, 1. ]))
    """
    past = np.asarray(past, dtype=float)
    if past.ndim != 2 or len(past) < 2 or not past.shape[1] or not np.isfinite(past).all():
        raise ValueError(f"goal_prior: past must be (goals, d), two or more and finite; got shape {past.shape}")
    if not np.ptp(past, axis=0).any():
        raise ValueError("goal_prior: all past goals are the same, so nothing is known of how they differ; give others")
    names = check_names(names, past.shape[1], "goal_prior")
    rms = float(np.sqrt((past**2).mean()))
    named = {f"goal {i}": row for i, row in enumerate(past)}
    noise = 0.1 * rms if noise is None else noise
    table = np.eye(past.shape[1]) if features is None else np.asarray(features, dtype=float)
    law, mean = reward_law(table, names), past.mean(0)
    family = Family.gaussian(law, mean[None], _ledoit_wolf(past), noise)
    return Prior(family, learned=Learned(named, (0.0, len(table) - 1.0)))


def check_names(names: Sequence[str] | None, size: int, where: str) -> tuple[str, ...]:
    """Return the names of the weights, w0, w1, ... for None; ValueError, with the caller's name, if they misfit."""
    names = tuple(f"w{i}" for i in range(size)) if names is None else tuple(names)
    if len(names) != size or len(set(names)) != size:
        raise ValueError(f"{where}: {size} different names are needed, one a feature; got {', '.join(names)}")
    return names


def _ledoit_wolf(past: ndarray) -> ndarray:
    """Return (d, d) the shrunk covariance of (goals, d), in coordinates scaled to one variance each."""
    centred = past - past.mean(0)
    sd = centred.std(0)
    sd = np.where(sd > 0, sd, 1e-3 * sd.max())  # a weight that never varied may, a little
    white = centred / sd
    goals, size = white.shape
    sample = white.T @ white / goals
    level = np.trace(sample) / size
    spread = ((sample - level * np.eye(size)) ** 2).sum()
    error = ((white**2).T @ (white**2) / goals - sample**2).sum() / goals
    share = min(error / spread, 1.0) if spread > 0 else 1.0
    shrunk = (1 - share) * sample + (share * level + 1e-9) * np.eye(size)
    return goals / (goals - 1) * shrunk * np.outer(sd, sd)

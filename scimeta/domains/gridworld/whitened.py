"""The posterior of parameters that are standard normal before, from linear residuals of known or unknown noise."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from scipy import special

_DECADE = np.log(10.0)  # standard deviation of the log of an unknown noise
_NOISES = np.linspace(-3.0, 3.0, 61)  # around its expected log, in standard deviations


class Whitened:
    """Residuals e = B z + noise of parameters z that are standard normal before.

    Args:
        design: B, (n, d).
        residuals: e, (n,).

    Attributes:
        singular: (kept,) singular values of B that are not 0.
        right: (d, d) its right singular vectors, as rows.
        along: (kept,) residuals along the left singular vectors.
        across: squares' sum of what no z can give.
        freedom: number of residuals less those along.
    """

    def __init__(self, design: ndarray, residuals: ndarray) -> None:
        tall, short = np.linalg.qr(design)  # many rewards would make the singular vectors below large
        left, singular, self.right = np.linalg.svd(short)
        kept = singular > 1e-12 * singular.max(initial=0.0)
        self.singular = singular[kept]
        basis = tall @ left[:, : len(singular)][:, kept]
        self.along = basis.T @ residuals
        self.across = float(((residuals - basis @ self.along) ** 2).sum())
        self.freedom = len(residuals) - len(self.singular)

    def posterior(self, sigmas: ndarray) -> tuple[ndarray, ndarray]:
        """Return means (noises, d) of z, and its variances (noises, d) along the rows of ``right``."""
        squares = self.singular**2 + sigmas[:, None] ** 2
        variances = np.ones((len(sigmas), len(self.right)))
        variances[:, : squares.shape[1]] = sigmas[:, None] ** 2 / squares
        return (self.singular / squares * self.along) @ self.right[: squares.shape[1]], variances

    def noises(self, noise: float) -> tuple[ndarray, ndarray]:
        """Return (noises,) standard deviations about the expected one, and their probabilities after the rewards."""
        sigmas = np.exp(np.log(noise) + _DECADE * _NOISES)
        squares = self.singular**2 + sigmas[:, None] ** 2  # (noises, kept)
        fit = (self.along**2 / squares + np.log(squares)).sum(1) + self.across / sigmas**2
        return sigmas, special.softmax(-0.5 * (fit + 2 * self.freedom * np.log(sigmas) + _NOISES**2))


def mixture_quantile(share: ndarray, means: ndarray, stds: ndarray, level: float) -> ndarray:
    """Return (d,) the quantiles of mixtures of Gaussians, means and stds (noises, d), by bisection.

    >>> mixture_quantile(np.ones(1), np.zeros((1, 1)), np.ones((1, 1)), 0.95).round(3)
    array([1.645])
    """
    each = means + special.ndtri(level) * stds
    lower, upper = each.min(0), each.max(0)
    for _ in range(100 if len(each) > 1 else 0):  # down to the last digit, however far apart the ends
        middle = 0.5 * (lower + upper)
        below = share @ special.ndtr((middle - means) / stds.clip(min=1e-150)) < level
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return 0.5 * (lower + upper)

"""Gaussians over the parameters of specimens, one or several kinds of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mode(NamedTuple):
    """One kind of specimens in a population of several.

    Attributes:
        share: of the specimens, 0 to 1.
        coefficients: (1 + conditions, fast), as in :class:`Prior`.
        covariance: (fast, fast).
        coefficient_covariance: (1 + conditions, fast, 1 + conditions, fast), of the estimated coefficients; None where
            it is not known.
    """

    share: float
    coefficients: np.ndarray
    covariance: np.ndarray
    coefficient_covariance: np.ndarray | None = None


class Gaussian(NamedTuple):
    """A Gaussian over the fast parameters, one mean a specimen.

    Attributes:
        mean: (specimens, fast), unconstrained.
        covariance: (fast, fast) for all specimens, or (specimens, fast, fast), positive definite.
    """

    mean: Tensor
    covariance: Tensor


class Mixture(NamedTuple):
    """A population of several kinds: sum over modes of share x Gaussian.

    Attributes:
        log_shares: (modes,).
        means: (specimens, modes, fast), unconstrained.
        covariances: (modes, fast, fast) for all specimens, or (specimens, modes, fast, fast), positive definite.

    >>> one = Mixture.of(Gaussian(torch.zeros(1, 1), torch.eye(1)))
    >>> one.log_density(torch.zeros(1, 1, 1)).exp()  # at one node
    tensor([[0.3989]])
    """

    log_shares: Tensor
    means: Tensor
    covariances: Tensor

    @staticmethod
    def of(prior: Gaussian | Mixture) -> Mixture:
        """Return a Gaussian as a mixture of one; a mixture as it is."""
        if isinstance(prior, Mixture):
            return prior
        return Mixture(prior.mean.new_zeros(1), prior.mean[:, None], prior.covariance.unsqueeze(-3))

    def rows(self, rows: Tensor | slice) -> Mixture:
        """Return the mixtures of some specimens."""
        own = self.covariances if self.covariances.ndim == 3 else self.covariances[rows]
        return Mixture(self.log_shares, self.means[rows], own)

    def mode(self, which: int) -> Gaussian:
        """Return the Gaussian of one kind."""
        return Gaussian(self.means[:, which], self.covariances[..., which, :, :])

    def variance(self) -> Tensor:
        """Return (specimens, fast): variances of the whole population."""
        shares = self.log_shares.exp()
        middle = (shares[:, None] * self.means).sum(1, keepdim=True)
        within = self.covariances.diagonal(dim1=-2, dim2=-1)  # (..., modes, fast)
        return (shares[:, None] * (within + (self.means - middle) ** 2)).sum(1)

    def log_parts(self, nodes: Tensor) -> Tensor:
        """Return (modes, specimens, nodes): log(share x density) of every kind at nodes (specimens, nodes, fast)."""
        factors, parts = torch.linalg.cholesky(self.covariances), []
        constant = 0.5 * nodes.shape[-1] * np.log(2 * np.pi)
        for k, factor in enumerate(factors.unbind(-3)):
            offset = torch.linalg.solve_triangular(factor, (nodes - self.means[:, k, None]).mT, upper=False)
            size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True) + constant
            parts.append(self.log_shares[k] - size - 0.5 * (offset * offset).sum(-2))
        return torch.stack(parts)

    def log_density(self, nodes: Tensor) -> Tensor:
        """Return (specimens, nodes): log density at nodes (specimens, nodes, fast)."""
        parts = self.log_parts(nodes)
        return parts[0] if len(parts) == 1 else parts.logsumexp(0)

    def memberships(self, nodes: Tensor) -> Tensor:
        """Return (modes, specimens, nodes): probability of each kind at nodes (specimens, nodes, fast)."""
        return torch.softmax(self.log_parts(nodes), 0)


def widening(count: float, regressors: int, fast: int) -> float:
    """Return the factor by which what is expected of a new member is wider than the sample that it is learned from.

    The variance of the Student t that a new member of a Gaussian sample follows, (1 + leverage) dof / (dof - 2), at the
    leverage that the sample has on average, regressors / count; the second factor is :func:`tails`.

    >>> widening(8, 1, 2)  # 9/8 for the mean, 6/4 for the covariance
    1.6875
    """
    return (1.0 + regressors / count) * tails(count, regressors, fast)


def tails(count: float, regressors: int, fast: int) -> float:
    """Return dof / (dof - 2), the variance of a standard Student t, with dof = count - regressors - fast + 1.

    It is how much wider a population must be taken whose covariance was learned from so many members; dof is taken as
    at least 3.
    """
    dof = max(count - regressors - fast + 1, 3)
    return dof / (dof - 2.0)


def is_covariance(matrix: np.ndarray) -> bool:
    """Return True for a symmetric matrix without a negative variance; some may be zero."""
    if not np.isfinite(matrix).all() or (np.diag(matrix) < 0).any():
        return False
    sd = np.sqrt(np.diag(matrix))
    scaled = matrix / np.outer(np.where(sd > 0, sd, 1.0), np.where(sd > 0, sd, 1.0))
    return np.allclose(scaled, scaled.T, atol=1e-6) and np.linalg.eigvalsh(scaled).min() > -1e-6


def positive_definite(covariance: np.ndarray) -> bool:
    """Return True for a covariance that is symmetric and positive definite, judged by its correlations.

    Parameters in very different units would otherwise hide each other's variance behind rounding.
    """
    variance = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variance > 0).all()):
        return False
    correlation = covariance / np.sqrt(variance) / np.sqrt(variance)[:, None]
    return np.allclose(correlation, correlation.T) and np.linalg.eigvalsh(correlation).min() > 0

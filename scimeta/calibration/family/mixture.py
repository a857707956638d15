"""Gaussians over the parameters of specimens, one component or several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A Gaussian over the fast parameters, one mean a specimen.

    Attributes:
        mean: (specimens, fast), unconstrained.
        covariance: (fast, fast) for all specimens, or (specimens, fast, fast), positive definite.
    """

    mean: Tensor
    covariance: Tensor


class Mixture(NamedTuple):
    """A population of several components: sum over components of share x Gaussian.

    Attributes:
        log_shares: (components,).
        means: (specimens, components, fast), unconstrained.
        covariances: (components, fast, fast) for all specimens, or (specimens, components, fast, fast); positive
            definite.

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

    def component(self, which: int) -> Gaussian:
        """Return the Gaussian of one component."""
        return Gaussian(self.means[:, which], self.covariances[..., which, :, :])

    def gaussian(self) -> Gaussian:
        """Return the one Gaussian with the mixture's mean and covariance."""
        if len(self.log_shares) == 1:
            return self.component(0)
        shares = self.log_shares.exp()
        mean = (shares[:, None] * self.means).sum(1)
        apart = self.means - mean[:, None]
        covariances = self.covariances + apart[..., None] * apart[..., None, :]
        return Gaussian(mean, (shares[:, None, None] * covariances).sum(1))

    def variance(self) -> Tensor:
        """Return (specimens, fast): variances of the whole population."""
        shares = self.log_shares.exp()
        middle = (shares[:, None] * self.means).sum(1, keepdim=True)
        within = self.covariances.diagonal(dim1=-2, dim2=-1)  # (..., components, fast)
        return (shares[:, None] * (within + (self.means - middle) ** 2)).sum(1)

    def log_parts(self, nodes: Tensor) -> Tensor:
        """Return (components, specimens, nodes): log(share x density) at nodes (specimens, nodes, fast)."""
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
        """Return (components, specimens, nodes): probability of each component at nodes (specimens, nodes, fast)."""
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
    """Return dof / (dof - 2), the variance of a standard Student t, with :func:`degrees_of_freedom`.

    It is how much wider a population must be taken whose covariance was learned from so many members.
    """
    dof = degrees_of_freedom(count, regressors, fast)
    return dof / (dof - 2.0)


def degrees_of_freedom(count: float, regressors: int, fast: int) -> float:
    """Return those of the Student t that a new member of a Gaussian sample of so many follows, at least 3.

    The covariance of ``fast`` parameters around ``regressors`` coefficients leaves count - regressors - fast + 1.

    Reference: Geisser, Predictive Inference, Chapman & Hall 1993, section 9.
    """
    return max(count - regressors - fast + 1.0, 3.0)


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

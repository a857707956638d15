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
        coefficients: (1 + conditions, fast), as in :class:`~scimeta.calibration.prior.Prior`.
        covariance: (fast, fast).
    """

    share: float
    coefficients: np.ndarray
    covariance: np.ndarray


class Gaussian(NamedTuple):
    """A Gaussian over the fast parameters, one mean a specimen, one covariance for all.

    Attributes:
        mean: (specimens, fast), unconstrained.
        covariance: (fast, fast), positive definite.
    """

    mean: Tensor
    covariance: Tensor


class Mixture(NamedTuple):
    """A population of several kinds: sum over modes of share x Gaussian.

    Attributes:
        log_shares: (modes,).
        means: (specimens, modes, fast), unconstrained.
        covariances: (modes, fast, fast), positive definite.

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
        return Mixture(prior.mean.new_zeros(1), prior.mean[:, None], prior.covariance[None])

    def rows(self, rows: Tensor | slice) -> Mixture:
        """Return the mixtures of some specimens."""
        return Mixture(self.log_shares, self.means[rows], self.covariances)

    def mode(self, which: int) -> Gaussian:
        """Return the Gaussian of one kind."""
        return Gaussian(self.means[:, which], self.covariances[which])

    def variance(self) -> Tensor:
        """Return (specimens, fast): variances of the whole population."""
        shares = self.log_shares.exp()
        middle = (shares[:, None] * self.means).sum(1, keepdim=True)
        within = self.covariances.diagonal(dim1=-2, dim2=-1)  # (modes, fast)
        return (shares[:, None] * (within + (self.means - middle) ** 2)).sum(1)

    def log_parts(self, nodes: Tensor) -> Tensor:
        """Return (modes, specimens, nodes): log(share x density) of every kind at nodes (specimens, nodes, fast)."""
        factors, parts = torch.linalg.cholesky(self.covariances), []
        constant = 0.5 * nodes.shape[-1] * np.log(2 * np.pi)
        for k, factor in enumerate(factors):
            offset = torch.linalg.solve_triangular(factor, (nodes - self.means[:, k, None]).mT, upper=False)
            size = factor.diagonal().log().sum() + constant
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

    The variance of the Student t that a new member of a Gaussian sample follows, (1 + regressors / count) dof / (dof -
    2) with dof = count - regressors - fast + 1, at least 3.

    >>> widening(8, 1, 2)  # 9/8 for the mean, 6/4 for the covariance
    1.6875
    """
    dof = max(count - regressors - fast + 1, 3)
    return (1.0 + regressors / count) * dof / (dof - 2.0)

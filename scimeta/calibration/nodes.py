"""Quasi-random nodes: Korobov lattices mapped to Student's t and the normal distribution."""

from __future__ import annotations

from functools import cache
from math import gcd

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

_PROPOSAL_DOF = 5.0  # tails heavier than the posterior's, so that weights stay bounded


@cache
def student_nodes(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return (count, dimension) nodes of independent Student t, from a lattice rule, and the log density at each.

    Posterior over proposal vanishes smoothly where the tails end, and such integrands a lattice integrates far better
    than random or Sobol points; every parameter takes as many values as there are nodes, as quantiles need.
    """
    nodes = stats.t.ppf(lattice(count, dimension), _PROPOSAL_DOF)
    return torch.from_numpy(nodes), torch.from_numpy(stats.t.logpdf(nodes, _PROPOSAL_DOF).sum(-1))


@cache
def chosen_nodes(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return (count, dimension) nodes of independent Student t and (count,) numbers, even over 0 to 1, to sort them."""
    cube = lattice(count, dimension + 1)
    return torch.from_numpy(stats.t.ppf(cube[:, :-1], _PROPOSAL_DOF)), torch.from_numpy(cube[:, -1])


@cache
def normal_nodes_beside(count: int, dimension: int, beside: int) -> Tensor:
    """Return (count, dimension) standard normal nodes that fill space together with ``student_nodes(count, beside)``.

    They have mean zero and the identity as covariance, to rounding.
    """
    nodes = special.ndtri(lattice(count, dimension, beside))
    nodes = nodes - nodes.mean(0)
    factor = np.linalg.cholesky(nodes.T @ nodes / count)
    return torch.from_numpy(np.linalg.solve(factor, nodes.T).T)


@cache
def lattice(count: int, dimension: int, beside: int = 0) -> np.ndarray:
    """Return (count, dimension) points of the open unit cube: the Korobov lattice whose points lie farthest apart.

    An odd count makes the lattice symmetric about the cube's middle, so that odd moments come out exact.

    Args:
        count: number of points.
        dimension: of the cube.
        beside: dimension of the lattice of as many points whose coordinates, with these, are to fill a larger cube.

    Reference: Sloan, Joe, Lattice Methods for Multiple Integration, Oxford 1994.
    """
    generator = _generator(count, dimension, _generator(count, beside) if beside else ())
    shift = 0.5 if count % 2 else 0.5 + 0.25 / count  # never on the cube's faces
    return (np.arange(count)[:, None] * np.array(generator) / count + shift) % 1.0


@cache
def _generator(count: int, dimension: int, beside: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the generating vector, powers of one multiplier, that keeps the points farthest apart."""
    best, distance = (1,) * dimension, -1.0
    steps, power = np.arange(1, count)[:, None], 1 if beside else 0
    for multiplier in range(1, count // 2 + 1):
        if gcd(multiplier, count) > 1:
            continue  # a coordinate would take fewer values than there are points
        generator = tuple(pow(multiplier, j + power, count) for j in range(dimension))
        away = steps * np.array(beside + generator) % count
        nearest = (np.minimum(away, count - away) ** 2).sum(-1).min()
        if nearest > distance:
            best, distance = generator, nearest
    return best


def normal_nodes(count: int) -> Tensor:
    """Return (count,) standard normal quantiles in an order that is unrelated to the nodes' own."""
    return torch.from_numpy(special.ndtri(((np.arange(count) + 0.5) * 0.6180339887498949) % 1.0))


def multivariate_t(count: int, dimension: int, dof: float) -> np.ndarray:
    """Return (count, dimension) equally weighted multivariate t, uncorrelated to rounding; normal at dof inf."""
    cube = lattice(count, dimension + 1)
    radius = np.ones(count) if np.isinf(dof) else stats.chi2.ppf(cube[:, -1], dof) / dof
    nodes = special.ndtri(cube[:, :-1]) / np.sqrt(radius)[:, None]
    covariance = nodes.T @ nodes / count
    white = np.linalg.solve(np.linalg.cholesky(covariance), nodes.T).T
    return white * np.sqrt(np.trace(covariance) / dimension)

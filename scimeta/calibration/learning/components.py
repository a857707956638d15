"""How many components a mixture has: several only where they predict held-out specimens better than fewer."""

from __future__ import annotations

from math import lgamma, log, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import degrees_of_freedom
from scimeta.calibration.learning.m_step import fitted_components
from scimeta.calibration.learning.past import Past, regressed
from scimeta.calibration.posterior.importance import Weighted, thinned
from scimeta.calibration.posterior.posterior import Posterior

MOST = 4
_FOLDS = 10
_NODES = 61  # a specimen, to compare numbers of components; what is chosen is then learned with all
_STARTS = 6
_FOLD_STARTS = 2  # of the folds, which sort their own specimens anew: none may know those left out
_MOVES = 19  # of the centres by which specimens are sorted first
_STEPS = 100
_ANY = 0.5  # specimens that a component must have if it was asked for; fewer are none
_STILL = 0.01  # nats that a step must gain to go on
_CLEARLY = 1.0  # standard errors that one component more must gain on the specimens left out,
GAIN = 7.0  # and nats in all; of 20 specimens one component gained up to 5, two gained 10 or more


class Cloud(NamedTuple):
    """The likelihood of every specimen at nodes of its parameters, from posteriors under one component.

    Attributes:
        family: of one component, from which the posteriors were found.
        design: (specimens, 1 + conditions).
        nodes: (specimens, nodes, fast).
        log_likelihood: (specimens, nodes), with the log volume of each node.
    """

    family: Family
    design: Tensor
    nodes: Tensor
    log_likelihood: Tensor

    @staticmethod
    def of(past: Past, family: Family, found: Posterior) -> Cloud:
        """Return the posteriors of one population freed of it."""
        few = thinned(Weighted(found.nodes, found.weights, found.effective, found.log_evidence), _NODES)
        log_prior = family.population(past.design).log_density(few.nodes)
        return Cloud(family, past.design, few.nodes, few.weights.log() + few.log_evidence[:, None] - log_prior)

    def rows(self, rows: Tensor) -> Cloud:
        """Return some of the specimens."""
        return Cloud(self.family, *(part[rows] for part in self[1:]))


def least_specimens(fast: int, past: Past) -> int:
    """Return how many specimens a component must have: parameters, conditions and two more."""
    return fast + past.design.shape[1] - 1 + 2


def chosen_components(past: Past, family: Family, found: Posterior, components: int | None) -> Family:
    """Return the family with as many components as the past holds.

    Args:
        past: all specimens.
        family, found: of one component, with the specimens' posteriors.
        components: how many (one where specimens that are exactly alike leave a component empty); None for as many as
            predict held-out specimens (in ten folds) better than one fewer does, by more than a standard error and
            seven nats.
    """
    cloud, least, best = Cloud.of(past, family, found), least_specimens(len(family.law.fast), past), family
    if components is not None:
        return best if components == 1 else (_fitted(cloud, components, _ANY)[0] or best)
    evidence, predicted = _fitted(cloud, 1, 0.0)[1], None
    for count in range(2, min(MOST, len(past.design) // least) + 1):
        fitted, its = _fitted(cloud, count, least)
        if fitted is None or not its > evidence + GAIN:  # what is not gained on the past itself is not on others
            break
        predicted = _held_out(cloud, count - 1) if predicted is None else predicted
        more = _held_out(cloud, count) - predicted
        if not float(more.sum()) > max(_CLEARLY * float(more.std()) * len(more) ** 0.5, GAIN):
            break
        best, evidence, predicted = fitted, its, predicted + more
    return best


def _fitted(cloud: Cloud, count: int, least: float, starts: int = _STARTS) -> tuple[Family | None, float]:
    """Return the best of several fits with so many components, and its evidence; none has under ``least`` specimens.

    None and minus infinity where every fit has a smaller component.
    """
    best, highest = None, -np.inf
    for labels in _splits(cloud, count, starts):
        members = torch.nn.functional.one_hot(labels, count).T.to(cloud.nodes.dtype)  # (components, specimens)
        family, evidence = _iterated(cloud, _sorted(cloud, members))
        enough = float(family.weights.min()) * len(cloud.nodes) >= least
        if enough and evidence > highest:
            best, highest = family, evidence
    return best, highest


def _sorted(cloud: Cloud, members: Tensor) -> Family:
    """Return the family of specimens sorted by memberships (components, specimens), by their likelihoods' own nodes."""
    weights = torch.softmax(cloud.log_likelihood, -1)
    return fitted_components(cloud.family, cloud.design, cloud.nodes, members[..., None] * weights)


def _iterated(cloud: Cloud, family: Family) -> tuple[Family, float]:
    """Return the fixed point of expectation maximisation on the cloud, and the log evidence of all specimens."""
    before = total = -np.inf
    for _ in range(_STEPS):
        parts = family.population(cloud.design).log_parts(cloud.nodes) + cloud.log_likelihood
        evidence = parts.logsumexp((0, 2))
        total = float(evidence.sum())
        if not total > before + _STILL:
            break
        before = total
        family = fitted_components(family, cloud.design, cloud.nodes, (parts - evidence[:, None]).exp())
    return family, total


def _splits(cloud: Cloud, count: int, starts: int) -> list[Tensor]:
    """Return (specimens,) labels of several ways to sort the specimens, by k-means on what the conditions leave."""
    weights = torch.softmax(cloud.log_likelihood, -1)
    mean = (weights[..., None] * cloud.nodes).sum(1)
    left = mean - cloud.design @ regressed(cloud.design, mean)
    values = (left / left.std(0).clamp(min=1e-12)).numpy()
    rng, found = np.random.default_rng(0), []
    for _ in range(starts if count > 1 else 1):
        centres = values[rng.integers(len(values))][None]
        while len(centres) < count:  # far from those that there are
            square = ((values[:, None] - centres) ** 2).sum(-1).min(1)
            chance = square / square.sum() if square.any() else None  # specimens may be exactly alike
            centres = np.vstack([centres, values[rng.choice(len(values), p=chance)]])
        labels = _nearest(values, centres)
        for _ in range(_MOVES):
            centres = np.array(
                [values[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(count)]
            )
            labels = _nearest(values, centres)
        if not any((labels == other).all() for other in found):
            found.append(labels)
    return [torch.from_numpy(labels) for labels in found]


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return (specimens,) the number of the centre that is nearest to each."""
    return ((values[:, None] - centres) ** 2).sum(-1).argmin(1)


def _held_out(cloud: Cloud, count: int) -> Tensor:
    """Return (specimens,): log density of each under so many components, learned without it."""
    specimens, folds = len(cloud.nodes), min(_FOLDS, len(cloud.nodes))
    result = torch.zeros(specimens, dtype=cloud.nodes.dtype)
    for fold in range(folds):
        out = torch.arange(specimens) % folds == fold
        learned = _fitted(cloud.rows(~out), count, 0.0, _FOLD_STARTS)[0]
        assert learned is not None  # none is too small
        result[out] = _predicted(cloud.rows(out), learned, int((~out).sum()))
    return result


def _predicted(cloud: Cloud, family: Family, specimens: int) -> Tensor:
    """Return (specimens,): log density of new specimens under components that were learned from so many.

    By the multivariate Student t that a new member of a Gaussian sample follows: one far member is no proof against a
    component that is known from few.
    """
    regressors, fast = family.coefficients.shape[1:]
    prior, parts = family.population(cloud.design), []
    for k, count in enumerate((family.weights * specimens).tolist()):
        dof = degrees_of_freedom(count, regressors, fast)
        factor = torch.linalg.cholesky((1.0 + regressors / count) * prior.covariances[k])
        offset = torch.linalg.solve_triangular(factor, (cloud.nodes - prior.means[:, k, None]).mT, upper=False)
        constant = lgamma(0.5 * (dof + fast)) - lgamma(0.5 * dof) - 0.5 * fast * log(dof * pi)
        constant += float(prior.log_shares[k] - factor.diagonal().log().sum())
        parts.append(constant - 0.5 * (dof + fast) * torch.log1p((offset * offset).sum(-2) / dof))
    return (torch.stack(parts).logsumexp(0) + cloud.log_likelihood).logsumexp(-1)

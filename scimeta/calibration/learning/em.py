"""Expectation maximisation on one past, to its fixed point or for a trial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.learning.m_step import maximize
from scimeta.calibration.learning.population import Past, Population, change
from scimeta.calibration.posterior.posterior import Posterior, posterior

_TRIAL_NODES = 101
_TRIAL_TOLERANCE = 1e-2


class State(NamedTuple):
    """Where an iteration stands."""

    population: Population
    found: Posterior
    converged: bool


class Loop(NamedTuple):
    """Expectation maximisation on one past.

    Attributes:
        past: the past.
        steps: the most iterations.
        tolerance: the change that ends them.
        bar: of progress.
    """

    past: Past
    steps: int
    tolerance: float
    bar: tqdm

    def posterior(self, population: Population, start: Tensor | None, nodes: int | None = None) -> Posterior:
        """Return the past specimens' posteriors (the E step)."""
        law, prior, points = population.law(self.past), population.prior(self.past), population.points(self.past)
        outliers = population.outliers
        return posterior(law, prior, population.shared, points, outliers=outliers, start=start, nodes=nodes)

    def run(self, population: Population, start: Tensor) -> State:
        """Return where the iteration ends."""
        for _ in range(self.steps):
            found = self.posterior(population, start)
            start = found.mode
            updated = maximize(self.past, population, found)
            self.bar.update()
            if change(population, updated) < self.tolerance:
                fresh = self.posterior(population, None)
                better = fresh.log_evidence > found.log_evidence + 0.5  # the specimen sat in a side valley
                if not better.any():
                    return State(population, found, True)
                start = torch.where(better[:, None], fresh.mode, start)
            population = updated
        return State(population, found, False)

    def trial(self, population: Population, start: Tensor, steps: int) -> State:
        """Return where few iterations with few nodes lead, to see whether more are worth their price."""
        for _ in range(steps):
            found = self.posterior(population, start, _TRIAL_NODES)
            start, updated = found.mode, maximize(self.past, population, found)
            self.bar.update()
            if change(population, updated) < _TRIAL_TOLERANCE:
                return State(population, found, True)
            population = updated
        return State(population, found, False)

    def some(self, rows: Tensor) -> Loop:
        """Return the iteration on some of the specimens."""
        return self._replace(past=self.past.some(rows))

"""Expectation maximisation on one past, to its fixed point or for a trial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.family.family import Family
from scimeta.calibration.learning.m_step import maximize
from scimeta.calibration.learning.mixed_model import Mixed
from scimeta.calibration.learning.past import Past, change
from scimeta.calibration.posterior.posterior import Posterior, posterior

_TRIAL_NODES = 101
_TRIAL_TOLERANCE = 1e-2


class State(NamedTuple):
    """Where an iteration stands."""

    family: Family
    found: Posterior
    converged: bool
    held_means: bool = False  # the means were not learned, but moved to where they predict best
    mixed: Mixed | None = None  # the mixed model that the family is of, where one was preferred
    coverage: Tensor | None = None  # (groups,) of the past's 90 % bands, each group left out in turn


class Loop(NamedTuple):
    """Expectation maximisation on one past.

    Attributes:
        past: the past.
        steps: the most iterations.
        tolerance: the change that ends them.
        bar: of progress.
        hold_means: True to learn the spreads alone.
    """

    past: Past
    steps: int
    tolerance: float
    bar: tqdm
    hold_means: bool = False

    def posterior(self, family: Family, start: Tensor | None, nodes: int | None = None) -> Posterior:
        """Return the past specimens' posteriors (the E step)."""
        points = family.points(self.past.data)
        return posterior(family, family.population(self.past.design), points, start=start, nodes=nodes)

    def run(self, family: Family, start: Tensor) -> State:
        """Return where the iteration ends."""
        left = self.steps
        while True:
            found = self.posterior(family, start)
            start, left = found.mode, left - 1
            updated = maximize(self.past, family, found, hold_means=self.hold_means)
            self.bar.update()
            if change(family, updated) < self.tolerance:
                fresh = self.posterior(family, None)
                better = fresh.log_evidence > found.log_evidence + 0.5  # the specimen sat in a side valley
                if not better.any():
                    return State(family, found, True, self.hold_means)
                start = torch.where(better[:, None], fresh.mode, start)
            family = updated
            if left < 1:
                return State(family, found, False, self.hold_means)

    def trial(self, family: Family, start: Tensor, steps: int) -> State:
        """Return where few iterations with few nodes lead, to see whether more are worth their price."""
        left = steps
        while True:
            found, left = self.posterior(family, start, _TRIAL_NODES), left - 1
            start, updated = found.mode, maximize(self.past, family, found, hold_means=self.hold_means)
            self.bar.update()
            if change(family, updated) < _TRIAL_TOLERANCE:
                return State(family, found, True, self.hold_means)
            family = updated
            if left < 1:
                return State(family, found, False, self.hold_means)

    def some(self, rows: Tensor) -> Loop:
        """Return the iteration on some of the specimens."""
        return self._replace(past=self.past.some(rows))

"""Meta-gradients by evolution strategies: for inner loops too long, or too rough, to differentiate through."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.meta_gradient import MetaGradient, zeros
from scimeta.core.recording import record
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Loss, Params, Task, at_step, count_tasks, over_tasks
from scimeta.core.window import Truncation, drawn_from, scaled_step


def evolution(
    adaptation: Adaptation,
    query_loss: Loss,
    *,
    window: int,
    pairs: int = 1,
    sigma: float = 0.01,
    over: Sequence[str] = ("rule.*",),
    accumulate: bool = True,
    truncation: Truncation | None = None,
) -> MetaGradient:
    """Return an estimate, from losses alone, of the gradient of the mean query loss after each inner step.

    Every task is adapted by ``pairs`` pairs of particles, that use what is learned + e and - e. A new e is drawn for
    each window of the inner loop, and a window's losses L are credited to all the perturbations that led to them:

        g = sum over windows w of (e_1 + ... + e_w) (L_w(+) - L_w(-)) / (2 sigma^2)

    (persistent evolution strategies, PES). That is unbiased, up to the smoothing by sigma, however short the windows,
    and its noise grows more slowly with the length of the loop than that of one perturbation for all of it. One outer
    step goes through the whole loop, so that nothing is carried from one to the next.

    Args:
        adaptation: the inner loop; its steps are all those that are judged.
        query_loss: scalar loss of one task.
        window: inner steps between two draws; ``adaptation.steps`` for the ordinary antithetic estimate (ES).
        pairs: antithetic pairs for each task, each with perturbations of its own.
        sigma: standard deviation of a perturbation's elements.
        over: patterns of what is perturbed, among "init.<name>" and "rule.<name>"; the rest gets a gradient of zero.
        accumulate: False to credit a window to its own perturbation alone (truncated ES), which is biased.
        truncation: its factors scale the inner losses and its seed is that of the perturbations; its burn-in is not
            used, since the whole loop is run.

    Returns: a meta-gradient; its losses are the tasks' means, over their particles, after the last step.

    Raises:
        ValueError: a number out of its range, or patterns that match nothing, when it is first called.

    Reference: Vicol, Metz, Sohl-Dickstein, Unbiased gradient estimation in unrolled computation graphs with persistent
    evolution strategies, ICML 2021.
    """
    _check(adaptation, window, pairs, sigma, over)
    truncation = truncation or Truncation()
    each = scaled_step(adaptation)

    def one(learned: Params, held: Params, moving: Params, state: Any, seen: Data, query: Data) -> tuple:
        moving, state = each(learned, held, moving, state, seen)
        return moving, state, query_loss({**held, **moving}, query)

    @record
    def step(learned: Params, held: Params, moving: Params, state: Any, seen: Data, query: Data) -> tuple:
        # Several particles see one task: repeated in here, so that data which are only looked at stay one copy.
        seen, query = _repeat((seen, query), 2 * pairs)
        return over_tasks(one)(learned, held, moving, state, seen, query)

    start = over_tasks(adaptation.rule.init)

    def meta_gradient(meta: Meta, task: Task, step_number: int = 0) -> tuple[Tensor, Meta]:
        tasks, like = count_tasks(task), next(iter(meta.init.values()))
        generator = drawn_from(truncation.seed, step_number)
        factors = truncation.factors(step_number, tasks, like) if truncation.rescale != 1 else ()
        particles = _Particles(meta, adaptation, tasks * pairs, sigma, over, generator)
        moving = particles.moved(particles.fast)
        state = pytree.tree_map(Tensor.contiguous, start(moving))
        for first in range(0, adaptation.steps, window):
            if first:
                particles.draw(accumulate)
            learned, held = particles.moved(particles.rule), particles.moved(particles.held)
            total = 0.0
            for count in range(first, min(first + window, adaptation.steps)):
                seen = factors, at_step(task.support, count, batched=True)
                moving, state, losses = step(learned, held, moving, state, seen, task.query)
                total = total + losses
            particles.credit(total / adaptation.steps)
        return losses.reshape(tasks, -1).mean(1), particles.gradient()

    return meta_gradient


class _Particles:
    """Antithetic pairs around what is learned, and what their losses say of its gradient.

    Names are prefixed by "rule." or "init."; the axis of the perturbations is (tasks x pairs), that of particles twice
    as long: a pair is two neighbours.
    """

    def __init__(
        self,
        meta: Meta,
        adaptation: Adaptation,
        number: int,
        sigma: float,
        over: Sequence[str],
        generator: torch.Generator,
    ) -> None:
        fast, held = split_fast(meta.init, adaptation.fast)
        self.rule, self.fast, self.held = (
            {f"{part}.{name}": value for name, value in values.items()}
            for part, values in (("rule", meta.rule), ("init", fast), ("init", held))
        )
        self.meta, self.number, self.sigma, self.generator = meta, number, sigma, generator
        everything = {**self.rule, **self.fast, **self.held}
        self.found = zeros(everything)
        moved = [name for name in everything if any(fnmatchcase(name, pattern) for pattern in over)]
        if not moved:
            raise ValueError(f"evolution: over={tuple(over)} matches nothing; there are {', '.join(everything)}")
        self.now = {name: self._normal(everything[name]) for name in moved}  # of this window
        self.credited = dict(self.now)  # what led to this window's losses

    def _normal(self, value: Tensor) -> Tensor:
        drawn = torch.randn(self.number, *value.shape, generator=self.generator, dtype=value.dtype)
        return self.sigma * drawn.to(value.device)

    def draw(self, accumulate: bool) -> None:
        """Draw the perturbations of a new window; those of a start stay what they were."""
        for name, before in self.credited.items():
            if name in self.fast:
                if not accumulate:
                    self.credited[name] = torch.zeros_like(before)
                continue
            self.now[name] = self._normal(self.found[name])
            self.credited[name] = before + self.now[name] if accumulate else self.now[name]

    def moved(self, values: Params) -> Params:
        """Return name (without prefix) -> (particles, ...), each pair on either side of the value."""
        return {name.split(".", 1)[1]: self._around(name, value) for name, value in values.items()}

    def _around(self, name: str, value: Tensor) -> Tensor:
        if name not in self.now:
            return value.expand(2 * self.number, *value.shape).contiguous()
        return torch.stack([value + self.now[name], value - self.now[name]], 1).flatten(0, 1)

    def credit(self, losses: Tensor) -> None:
        """Add what the (particles,) losses of this window say."""
        up, down = losses.reshape(self.number, 2).unbind(1)
        weights = (up - down) / (2 * self.sigma**2 * self.number)  # (tasks x pairs,)
        for name, led in self.credited.items():
            self.found[name] = self.found[name] + torch.tensordot(weights, led, 1)

    def gradient(self) -> Meta:
        return Meta(
            *({name: self.found[f"{part}.{name}"] for name in getattr(self.meta, part)} for part in Meta._fields)
        )


def _repeat(nest: Any, times: int) -> Any:
    """Return each task of the nest so many times, neighbours."""
    return pytree.tree_map(lambda t: t[:, None].expand(-1, times, *t.shape[1:]).flatten(0, 1), nest)


def _check(adaptation: Adaptation, window: int, pairs: int, sigma: float, over: Sequence[str]) -> None:
    if not isinstance(window, int) or not 1 <= window <= adaptation.steps:
        raise ValueError(f"evolution: window is 1 to {adaptation.steps}, the inner steps; got {window!r}")
    if not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"evolution: pairs is a positive integer; got {pairs!r}")
    if not sigma > 0:
        raise ValueError(f"evolution: sigma is a positive number; got {sigma!r}")
    if isinstance(over, str):
        raise TypeError(f"evolution: over is a sequence of patterns, such as ({over!r},)")

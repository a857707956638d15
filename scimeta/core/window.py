"""Meta-gradients of update rules through a window of the inner loop, wherever in it the window lies."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.linearize import record_pull
from scimeta.core.meta_gradient import MetaGradient, check_chunk, for_each_task, in_chunks, plus, zeros
from scimeta.core.recording import record
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Loss, Params, Task, at_step, count_tasks, over_tasks


class Truncation(NamedTuple):
    """Where an outer step's window begins and how its problems are scaled, drawn from the step's number alone.

    Attributes:
        burn_in: the most inner steps before the window; their number is drawn evenly from 0 to it.
        growth: outer steps over which the most grows from 0 to ``burn_in``; 0 for all of it from the beginning.
        rescale: the inner loss of each task is multiplied by a factor, log-uniform from 1 / rescale to rescale.
        seed: of the draws.
    """

    burn_in: int = 0
    growth: int = 0
    rescale: float = 1.0
    seed: int = 0

    def length(self, step: int) -> int:
        """Return the number of inner steps before the window of an outer step.

        >>> Truncation(burn_in=80, growth=100).length(0)
        0
        """
        most = self.burn_in if step >= self.growth else self.burn_in * step // self.growth
        return int((most + 1) * random.Random(f"{self.seed} {step}").random())

    def factors(self, step: int, tasks: int, like: Tensor) -> Tensor:
        """Return (tasks,) factors of the inner losses, on the device and of the type of a tensor."""
        uniform = torch.rand(tasks, generator=drawn_from(self.seed, step), dtype=torch.float64)
        return self.rescale ** (2 * uniform - 1).to(like)


def drawn_from(seed: int, step: int) -> torch.Generator:
    """Return a generator that depends on the seed, the outer step and, of several processes, which one this is."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    return torch.Generator().manual_seed(random.Random(f"{seed} {step} {rank}").getrandbits(32))


def through_window(
    adaptation: Adaptation,
    query_loss: Loss,
    truncation: Truncation,
    *,
    weights: Tensor | None = None,
    clip: float | None = None,
    chunk_size: int | None = None,
) -> MetaGradient:
    """Return the derivative of the mean query loss after each of ``adaptation.steps`` inner steps.

    The steps before the window run without gradient. Where there are any, the starting point of the fast parameters
    gets none. A task that has left the finite numbers by then starts anew. The losses returned are those after the
    window. Only one step is recorded, whatever the lengths; memory grows with the window.

    Args:
        adaptation: the inner loop; its steps are the window's.
        query_loss: scalar loss of one task.
        truncation: where the window lies.
        weights: (steps,) of the query loss after each step; None for a mean.
        clip: the norm down to which, on the way back, each task's derivative by its fast parameters is scaled where it
            is larger, at every step. What is not finite is left out, and with it, where the rule's derivative would not
            be finite either, the whole task.
        chunk_size: tasks held in memory at once; None for all.

    Reference: Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, ICML 2019 (random truncations).
    """
    check_chunk(chunk_size)
    step = scaled_step(adaptation)

    def one(learned: Params, held: Params, moving: Params, state: Any, seen: Data, query: Data) -> tuple:
        moving, state = step(learned, held, moving, state, seen)
        return moving, state, query_loss({**held, **moving}, query)

    def window_step(learned: Params, held: Params, moving: Params, state: Any, seen: Data, query: Data) -> tuple:
        return over_tasks(one, (None, None, 0, 0, 0, 0))(learned, held, moving, state, seen, query)

    def burn_in_step(learned: Params, held: Params, moving: Params, state: Any, seen: Data) -> tuple:
        return over_tasks(step, (None, None, 0, 0, 0))(learned, held, moving, state, seen)

    each = torch.full((adaptation.steps,), 1 / adaptation.steps) if weights is None else weights
    linearized, plain, first = record_pull(window_step), record(burn_in_step), adaptation.rule.init
    clipped = record(_clipped)

    def whole(meta: Meta, task: Task, burn_in: int) -> tuple[Tensor, Meta]:
        fast, held = split_fast(meta.init, adaptation.fast)
        start = now = for_each_task((fast, first(fast)), count_tasks(task))
        factors, support = task.support
        for count in range(burn_in):
            now = plain(meta.rule, held, *now, (factors, at_step(support, count, batched=True)))
        now, pulls = _sound(now, start) if burn_in else now, []
        for count in range(burn_in, burn_in + adaptation.steps):
            seen = factors, at_step(support, count, batched=True)
            (*now, losses), pull = linearized((meta.rule, held, *now), (seen, task.query))
            pulls.append(pull)
        judged = [weight.expand_as(losses).contiguous() for weight in each.to(losses) / len(losses)]
        learned, slope = zeros((meta.rule, held)), zeros(now)
        while pulls:
            pull, slopes = pulls.pop(), judged.pop()
            *more, d_moving, d_state = pull((*slope, slopes))
            learned, slope = plus(learned, tuple(more)), (d_moving, d_state)
            if clip is not None:
                slope = clipped(*slope, torch.full_like(losses, clip / len(losses)))
        d_moving, d_state = slope
        d_fast = zeros(fast)
        if not burn_in:
            _, pull = torch.func.vjp(lambda fast: (fast, first(fast)), fast)
            (d_fast,) = pull(pytree.tree_map(lambda d: d.sum(0), (d_moving, d_state)))
        d_rule, d_held = learned
        gradient = {**d_held, **d_fast}
        return losses, Meta({name: gradient[name] for name in meta.init}, d_rule)

    def meta_gradient(meta: Meta, task: Task, step: int = 0) -> tuple[Tensor, Meta]:
        burn_in = truncation.length(step)
        like = next(iter(meta.init.values()))
        factors = truncation.factors(step, count_tasks(task), like) if truncation.rescale != 1 else ()

        def sound(part: Task) -> tuple[Tensor, Meta]:
            losses, gradient = whole(meta, part, burn_in)
            if clip is None or torch.stack([leaf.isfinite().all() for leaf in pytree.tree_leaves(gradient)]).all():
                return losses, gradient
            # Some task's derivative is not finite. Halves tell which, and it counts as zero.
            if len(losses) == 1:
                return losses, zeros(gradient)
            return in_chunks(sound, part, (len(losses) + 1) // 2)

        return in_chunks(sound, Task((factors, task.support), task.query), chunk_size)

    return meta_gradient


def scaled_step(adaptation: Adaptation) -> Callable[..., tuple[Params, Any]]:
    """Return one inner step of one task that sees (factor of the loss, data); without a factor, ((), data)."""

    def step(learned: Params, held: Params, moving: Params, state: Any, seen: Data) -> tuple[Params, Any]:
        factor, data = seen
        if not isinstance(factor, Tensor):
            return adaptation.step(learned, held, moving, state, data)
        scaled = Adaptation(
            lambda params, data: factor * adaptation.loss(params, data),
            adaptation.rule,
            first_order=adaptation.first_order,
        )
        return scaled.step(learned, held, moving, state, data)

    return step


def _clipped(d_moving: Params, d_state: Any, most: Tensor) -> tuple[Params, Any]:
    """Return the slopes, those by the fast parameters scaled where a task's are longer than (tasks,) most."""

    def each(factor: Tensor, slope: Tensor) -> Tensor:
        return factor.view(-1, *[1] * (slope.dim() - 1))

    length = sum((d * d).reshape(len(d), -1).sum(1) for d in d_moving.values()).sqrt() / most  # (tasks,)
    good, scale = torch.isfinite(length), 1 / length.clamp(min=1)
    # The state's are only mended: what a memory is worth does not grow as the loss's scale shrinks on the way.
    mended = pytree.tree_map(lambda d: torch.nan_to_num(d, 0.0, 0.0, 0.0), d_state)
    return {name: torch.where(each(good, d), each(scale, d) * d, 0.0) for name, d in d_moving.items()}, mended


def _sound(now: tuple, start: tuple) -> tuple:
    """Return (moving, state), those of the start for tasks in which anything is not finite."""
    good = torch.stack([torch.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in pytree.tree_leaves(now)]).all(
        0
    )  # (tasks,)

    def chosen(value: Tensor, fresh: Tensor) -> Tensor:
        return torch.where(good.view(-1, *[1] * (value.dim() - 1)), value, fresh)

    return pytree.tree_map(chosen, now, start)

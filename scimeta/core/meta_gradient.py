"""Meta-gradients: how the outer loop learns from what an adaptation led to.

Each function returns a ``MetaGradient``: (meta, batch of tasks, outer steps done so far) -> the tasks' query losses
(tasks,) and the gradient of their mean by ``meta``, in its shape. Only schedules read the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.recording import record
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Loss, Params, Stream, Task, at_step, count_tasks, over_tasks, select_tasks

MetaGradient = Callable[[Meta, Task, int], tuple[Tensor, Meta]]
StepWeights = Callable[[int], Tensor]
"""Outer steps done so far -> (inner steps,) weight of the query loss after each inner step."""

_UNROLLED = 10  # inner steps up to which one graph of all of them is the faster way


def through_adaptation(
    adaptation: Adaptation,
    query_loss: Loss,
    *,
    step_weights: StepWeights | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaGradient:
    """Return the derivative of the query loss through all inner steps (MAML; FOMAML where the adaptation says so).

    Args:
        adaptation: the inner loop.
        query_loss: scalar loss of one task that judges the adapted parameters.
        step_weights: judge after every inner step, with these weights, not only after the last (MAML++).
        adjoint: True to keep only each step's parameters and to differentiate one step at a time, backwards: memory
            grows with the steps by the parameters alone, for one more evaluation of each step. None: for more than 10
            inner steps.
        chunk_size: tasks held in memory at once; None for all.

    Reference: Finn, Abbeel, Levine, ICML 2017; Antoniou, Edwards, Storkey, ICLR 2019.
    """
    check_chunk(chunk_size)
    backwards = adaptation.steps > _UNROLLED if adjoint is None else adjoint
    whole = _adjoint(adaptation, query_loss) if backwards else _unrolled(adaptation, query_loss)

    def meta_gradient(meta: Meta, task: Task, step: int = 0) -> tuple[Tensor, Meta]:
        weights = None if step_weights is None else step_weights(step)
        if weights is not None:
            weights = weights.to(next(iter(meta.init.values())))  # its device and type, which training may have chosen
        return in_chunks(lambda part: whole(meta, part, weights), task, chunk_size)

    return meta_gradient


def displacement(adaptation: Adaptation, query_loss: Loss, *, chunk_size: int | None = None) -> MetaGradient:
    """Return the way back from where the tasks went: start - mean of the adapted parameters (Reptile).

    Nothing is differentiated through the inner loop; the query loss is only reported. Slow parameters and rules get
    zero.

    Reference: Nichol, Achiam, Schulman, On first-order meta-learning algorithms, arXiv:1803.02999 (2018).
    """
    check_chunk(chunk_size)
    inner = _Inner(adaptation, query_loss)

    def whole(meta: Meta, task: Task) -> tuple[Tensor, Meta]:
        held, path = inner.run(meta, task.support, keep=False)
        moving = path[-1][0]
        gradient = {name: torch.zeros_like(value) for name, value in meta.init.items()}
        gradient |= {name: meta.init[name] - value.mean(0) for name, value in moving.items()}
        return inner.judge(held, moving, task.query), Meta(gradient, zeros(meta.rule))

    return lambda meta, task, step=0: in_chunks(lambda part: whole(meta, part), task, chunk_size)


def implicit(
    adaptation: Adaptation,
    query_loss: Loss,
    strength: float,
    *,
    cg_steps: int = 10,
    tolerance: float = 1e-10,
    chunk_size: int | None = None,
) -> MetaGradient:
    """Return the derivative at the minimum that the inner loop went to, whatever way it took (implicit MAML).

    At the minimum phi of loss(phi) + strength / 2 |phi - start|^2 the condition loss'(phi) + strength (phi - start) = 0
    gives d phi / d start = strength (H + strength)^-1 with H = loss''(phi). With q the query loss's gradient, conjugate
    gradients solve (H + strength) u = q and the start's gradient is strength u; a slow parameter s that the loss reads
    gets its part of q less u' d loss' / d s. Memory does not grow with the number of inner steps.

    Args:
        adaptation: the inner loop, by a ``proximal`` rule and run until it has converged.
        query_loss: scalar loss of one task.
        strength: of the pull towards the start, as in the rule.
        cg_steps: conjugate-gradient steps. A task whose curvature turns out to be negative keeps what it has by then.
        tolerance: a task's solve stops where its residual falls below this part of its start.
        chunk_size: tasks held in memory at once.

    Reference: Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019.
    """
    check_chunk(chunk_size)
    inner = _Inner(adaptation, query_loss)

    def curvature(held: Params, moving: Params, support: Data, direction: Params) -> Params:
        # Backwards twice: where a loss holds views, forward mode cannot be recorded.
        def slope_along(fast: Params) -> Tensor:
            grads = torch.func.grad(lambda fast: adaptation.loss({**held, **fast}, support))(fast)
            return sum((grads[name] * value).sum() for name, value in direction.items())

        bent = torch.func.grad(slope_along)(moving)
        return {name: value + strength * direction[name] for name, value in bent.items()}

    @record
    def cg_step(held: Params, moving: Params, support: Data, state: tuple) -> tuple:
        solution, residual, direction, square, enough = state  # square, enough: (tasks,)
        bent = over_tasks(curvature, (None, 0, 0, 0))(held, moving, support, direction)
        along = _dot(direction, bent)
        going = (square > enough) & (along > 0)
        length = torch.where(going, square / torch.where(going, along, 1.0), 0.0)
        solution, residual = _axpy(solution, length, direction), _axpy(residual, -length, bent)
        new = torch.where(going, _dot(residual, residual), square)
        return solution, residual, _axpy(residual, torch.where(going, new / square, 0.0), direction), new, enough

    @record
    def mixed(held: Params, moving: Params, support: Data, solution: Params) -> Params:
        def along(held: Params) -> Tensor:
            def slope(held: Params, moving: Params, support: Data, u: Params) -> Tensor:
                grads = torch.func.grad(lambda fast: adaptation.loss({**held, **fast}, support))(moving)
                return sum((grads[name] * u[name]).sum() for name in u)

            return over_tasks(slope, (None, 0, 0, 0))(held, moving, support, solution).sum()

        return torch.func.grad(along)(held)

    def whole(meta: Meta, task: Task) -> tuple[Tensor, Meta]:
        if isinstance(task.support, Stream):
            raise ValueError(
                "implicit: the support is a Stream, whose every step has a loss of its own, so that there is no "
                "minimum to differentiate at; give all the data to every step"
            )
        held, path = inner.run(meta, task.support, keep=False)
        moving = path[-1][0]
        losses, d_held, residual = inner.slope(held, moving, task.query)
        square = _dot(residual, residual)
        state = (zeros(residual), residual, residual, square, tolerance**2 * square)
        for _ in range(cg_steps):
            state = cg_step(held, moving, task.support, state)
        solution = state[0]
        gradient = {name: strength * u.sum(0) for name, u in solution.items()}
        if held:
            through = mixed(held, moving, task.support, solution)
            gradient |= {name: value - through[name] for name, value in d_held.items()}
        return losses, Meta({name: gradient[name] for name in meta.init}, zeros(meta.rule))

    return lambda meta, task, step=0: in_chunks(lambda part: whole(meta, part), task, chunk_size)


def _unrolled(adaptation: Adaptation, query_loss: Loss) -> Callable[..., tuple[Tensor, Meta]]:
    """All inner steps in one graph: torch.func.grad around one vmap over the tasks."""

    def judged(meta: Meta, support: Data, query: Data, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if weights is None:
            last = query_loss(adaptation(meta, support), query)
            return last, last
        _, *path = adaptation.path(meta, support)
        losses = torch.stack([query_loss(params, query) for params in path])  # (steps,)
        return (weights * losses).sum(), losses[-1]

    @record
    def meta_gradient(meta: Meta, task: Task, weights: Tensor | None) -> tuple[Tensor, Meta]:
        def mean_loss(meta: Meta) -> tuple[Tensor, Tensor]:
            judge = over_tasks(lambda support, query: judged(meta, support, query, weights))
            weighted, last = judge(task.support, task.query)
            return weighted.mean(), last

        gradient, losses = torch.func.grad(mean_loss, has_aux=True)(meta)
        return losses, gradient

    return meta_gradient


def _adjoint(adaptation: Adaptation, query_loss: Loss) -> Callable[..., tuple[Tensor, Meta]]:
    """One step at a time, backwards from the last; every step is the same graph."""
    inner = _Inner(adaptation, query_loss)

    def meta_gradient(meta: Meta, task: Task, weights: Tensor | None) -> tuple[Tensor, Meta]:
        held, path = inner.run(meta, task.support)
        losses, d_held, d_moving = inner.slope(held, path[-1][0], task.query)
        if weights is not None:
            d_held, d_moving = times(weights[-1], (d_held, d_moving))
        d_state, d_rule = zeros(path[-1][1]), zeros(meta.rule)
        for count in reversed(range(adaptation.steps)):
            moving, state = path[count]
            more_rule, more_held, d_moving, d_state = inner.pull(
                meta.rule, held, moving, state, at_step(task.support, count, batched=True), d_moving, d_state
            )
            d_rule, d_held = plus(d_rule, more_rule), plus(d_held, more_held)
            if weights is not None and count > 0:
                _, judged_held, judged_moving = inner.slope(held, moving, task.query)
                d_held, d_moving = plus((d_held, d_moving), times(weights[count - 1], (judged_held, judged_moving)))
            path.pop()
        gradient = {**d_held, **inner.pull_start(split_fast(meta.init, adaptation.fast)[0], d_moving, d_state)}
        return losses, Meta({name: gradient[name] for name in meta.init}, d_rule)

    return meta_gradient


class _Inner:
    """The parts of an inner loop over a batch of tasks, each recorded once, whatever the number of steps.

    Moving parameters and states have a task axis; held and learned ones have none.
    """

    def __init__(self, adaptation: Adaptation, query_loss: Loss) -> None:
        self.adaptation = adaptation
        per_step = (None, None, 0, 0, 0)

        def step(learned: Params, held: Params, moving: Params, state: Any, support: Data) -> tuple[Params, Any]:
            return over_tasks(adaptation.step, per_step)(learned, held, moving, state, support)

        def pull(
            learned: Params, held: Params, moving: Params, state: Any, support: Data, d_moving: Params, d_state: Any
        ) -> tuple:
            primals = (learned, held, moving, state)
            _, vjp = torch.func.vjp(lambda *primals: step(*primals, support), *primals)
            return vjp((d_moving, d_state))

        def pull_start(moving: Params, d_moving: Params, d_state: Any) -> Params:
            _, vjp = torch.func.vjp(lambda moving: (moving, adaptation.rule.init(moving)), moving)
            return vjp(pytree.tree_map(lambda d: d.sum(0), (d_moving, d_state)))[0]

        def judge(held: Params, moving: Params, query: Data) -> Tensor:
            return over_tasks(lambda held, moving, query: query_loss({**held, **moving}, query), (None, 0, 0))(
                held, moving, query
            )

        def slope(held: Params, moving: Params, query: Data) -> tuple[Tensor, Params, Params]:
            def mean_loss(held: Params, moving: Params) -> tuple[Tensor, Tensor]:
                losses = judge(held, moving, query)
                return losses.mean(), losses

            (d_held, d_moving), losses = torch.func.grad(mean_loss, (0, 1), has_aux=True)(held, moving)
            return losses, d_held, d_moving

        self.step, self.pull, self.pull_start = record(step), record(pull), record(pull_start)
        self.judge, self.slope = record(judge), record(slope)

    def run(self, meta: Meta, support: Data, *, keep: bool = True) -> tuple[Params, list[tuple[Params, Any]]]:
        """Return the held parameters and the (moving, state) at the start and after each step, or after the last."""
        moving, held = split_fast(meta.init, self.adaptation.fast)
        tasks = count_tasks(support)
        path = [for_each_task((moving, self.adaptation.rule.init(moving)), tasks)]
        for count in range(self.adaptation.steps):
            reached = self.step(meta.rule, held, *path[-1], at_step(support, count, batched=True))
            path = [*path, reached] if keep else [reached]
        return held, path


def for_each_task(nest: Any, tasks: int) -> Any:
    """Return a copy of the nest for each of so many tasks, on a leading axis."""
    return pytree.tree_map(lambda t: t.expand(tasks, *t.shape).contiguous(), nest)


def check_chunk(chunk_size: int | None) -> None:
    """Raise unless it is a number of tasks, or None."""
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size is a positive integer, or None for all tasks at once; got {chunk_size!r}")


def in_chunks(whole: Callable[[Task], tuple[Tensor, Meta]], task: Task, chunk_size: int | None) -> tuple[Tensor, Meta]:
    """Return losses and gradient of the whole batch, computed chunk after chunk."""
    tasks = count_tasks(task)
    if chunk_size is None or tasks <= chunk_size:
        return whole(task)
    losses, total = [], None
    for first in range(0, tasks, chunk_size):
        part = select_tasks(task, slice(first, first + chunk_size))
        some, gradient = whole(part)
        losses.append(some)
        gradient = times(len(some) / tasks, gradient)
        total = gradient if total is None else plus(total, gradient)
    return torch.cat(losses), total


def zeros(nest: Any) -> Any:
    """Return the nest filled with zeros."""
    return pytree.tree_map(torch.zeros_like, nest)


def plus(a: Any, b: Any) -> Any:
    """Return the sum of two nests."""
    return pytree.tree_map(torch.add, a, b)


def times(factor: Tensor | float, nest: Any) -> Any:
    """Return a multiple of a nest."""
    return pytree.tree_map(lambda t: factor * t, nest)


def _dot(a: Params, b: Params) -> Tensor:
    """Return (tasks,) inner products."""
    return sum((a[name] * b[name]).flatten(1).sum(1) for name in a)


def _axpy(y: Params, factor: Tensor, x: Params) -> Params:
    """Return y + factor x with a factor for each task."""
    return {name: value + factor.view(-1, *[1] * (value.dim() - 1)) * x[name] for name, value in y.items()}

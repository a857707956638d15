"""Adaptation to one task: gradient steps by a rule, or Gauss-Newton. Fast parameters move, slow ones are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.rules import Meta, Rule, State
from scimeta.core.tasks import Data, Loss, Params, at_step, over_tasks


def split_fast(params: Params, fast: Sequence[str] = ("*",)) -> tuple[Params, Params]:
    """Return the parameters whose names match a pattern of ``fast``, and the others.

    Args:
        params: name -> tensor.
        fast: names or shell patterns ("head.*").

    Raises:
        ValueError: there is no pattern, or one matches no name.
    """
    if isinstance(fast, str):
        raise TypeError(f"fast is a sequence of patterns, such as ({fast!r},)")
    if not fast:
        raise ValueError(f"fast names no parameter, so nothing would adapt; there are {', '.join(params)}")
    for pattern in fast:
        if not any(fnmatchcase(name, pattern) for name in params):
            raise ValueError(f"fast pattern {pattern!r} matches no parameter; there are {', '.join(params)}")
    moving = {n: p for n, p in params.items() if any(fnmatchcase(n, pattern) for pattern in fast)}
    return moving, {n: p for n, p in params.items() if n not in moving}


def adapt(
    loss: Loss,
    rule: Rule,
    meta: Meta,
    support: Data,
    steps: int = 1,
    *,
    fast: Sequence[str] = ("*",),
    first_order: bool = False,
) -> Params:
    """Return the parameters after ``steps`` inner steps on one task.

    Differentiable by ``meta``; batch it with :func:`scimeta.core.tasks.over_tasks`.

    Args:
        loss: scalar loss of one task.
        rule: the update rule; its parameters are read from ``meta.rule``.
        meta: starting parameters and the rule's.
        support: the task's data, without a task axis; of a ``Stream`` each step sees its own slice.
        steps: number of inner steps.
        fast: names or patterns of the parameters that move; the others are held.
        first_order: True to treat the inner gradients as constants (FOMAML).

    Reference: Finn, Abbeel, Levine, Model-agnostic meta-learning, ICML 2017.

    >>> from scimeta.core.rules import sgd
    >>> half = adapt(lambda p, x: (p["a"] - x) ** 2, sgd(0.25), Meta({"a": torch.tensor(0.0)}, {}), torch.tensor(1.0))
    >>> half["a"]
    tensor(0.5000)
    """
    return Adaptation(loss, rule, steps, tuple(fast), first_order)(meta, support)


@dataclass(frozen=True)
class Adaptation:
    """The inner loop of a learner: what descends, by which rule, for how many steps.

    Attributes:
        loss: scalar loss of one task.
        rule: the update rule; its learnable parameters are read from the Meta that it is called with.
        steps: inner steps that the outer loop trains for.
        fast: names or patterns of the parameters that move.
        first_order: True to treat the inner gradients as constants.
        guarded: whether steps beyond the trained ones are guarded, as below.
    """

    loss: Loss
    rule: Rule
    steps: int = 1
    fast: tuple[str, ...] = ("*",)
    first_order: bool = False
    guarded: bool = True

    def __call__(self, meta: Meta, support: Data, steps: int | None = None) -> Params:
        """Return one task's parameters after ``steps`` (None: as many as trained) inner steps.

        A rule with learned parameters knows only the steps that it was trained for. Further ones are guarded: a step
        is halved until it lowers the support loss, and left out where 1/128 of it does not.
        """
        *_, last = self.path(meta, support, steps)
        return last

    def path(self, meta: Meta, support: Data, steps: int | None = None) -> Iterator[Params]:
        """Yield one task's parameters at the start and after each step."""
        moving, held = split_fast(meta.init, self.fast)
        state = self.rule.init(moving)
        yield {**held, **moving}
        for count in range(self.steps if steps is None else steps):
            before, seen = moving, at_step(support, count)
            moving, state = self.step(meta.rule, held, moving, state, seen)
            if self.guarded and count >= self.steps and self.rule.params:
                moving = self._guarded(held, before, moving, seen)
            yield {**held, **moving}

    def step(self, learned: Params, held: Params, moving: Params, state: State, seen: Data) -> tuple[Params, State]:
        """Return one task's fast parameters and the rule's state after one step on what it sees of the support."""
        grads = torch.func.grad(lambda fast: self.loss({**held, **fast}, seen))(moving)
        if self.first_order:
            grads = {name: grad.detach() for name, grad in grads.items()}
        return self.rule.update(learned, grads, state, moving)

    def _guarded(self, held: Params, before: Params, after: Params, support: Data) -> Params:
        """Return the point on the way from before to after that the guard lets through."""
        some = next(iter(before.values()))
        fractions = 0.5 ** torch.arange(8, dtype=some.dtype, device=some.device)

        def between(fraction: Tensor) -> Params:
            return {name: value + fraction * (after[name] - value) for name, value in before.items()}

        # Not one more vmap: torch 2.13's mse_loss mistakes the shapes under two of them.
        losses = torch.stack([self.loss({**held, **between(fraction)}, support) for fraction in fractions])
        lower = losses < self.loss({**held, **before}, support)
        taken = torch.where(lower, fractions, 0.0).amax()
        # A refused step may lead to infinity: zero times that would be nan.
        return {n: torch.where(taken > 0, value, before[n]) for n, value in between(taken).items()}


Residuals = Callable[[Params, Data], Tensor]
"""(residuals,) of ONE task; half their sum of squares is the cost."""

Linearized = Callable[[Params, Params, Data], tuple[Tensor, Tensor]]
"""(fast, slow, data), all with a task axis -> (tasks, residuals) and their Jacobian (tasks, residuals, parameters)."""


class Solution(NamedTuple):
    """What :func:`gauss_newton` found.

    Attributes:
        params: name -> (tasks, ...): fast parameters at the solution, slow ones as given.
        converged: (tasks,) bool: a full step would lower the cost by less than the tolerance.
        cost: (tasks,) half the sum of squared residuals.
        jacobian: (tasks, residuals, parameters) of the residuals by the fast parameters, at the solution.
        steps: (tasks,) linearisations used.
    """

    params: Params
    converged: Tensor
    cost: Tensor
    jacobian: Tensor
    steps: Tensor


def gauss_newton(
    residuals: Residuals | None,
    params: Params,
    data: Data,
    steps: int = 50,
    *,
    fast: Sequence[str] = ("*",),
    tolerance: float = 1e-8,
    linearized: Linearized | None = None,
) -> Solution:
    """Return the least-squares solution of every task, solved in one batch.

    Each step solves (J'J + damping diag J'J) step = -J'r. The damping of a task is 0 (a plain Gauss-Newton step) until
    one of its steps fails to lower the cost by a quarter of what it promised; then it grows tenfold with each such
    failure and shrinks tenfold with each success (Levenberg-Marquardt). Tasks that are done leave the batch. The
    solution carries no gradient.

    Args:
        residuals: (residuals,) of one task; in units of their standard deviation, so that the tolerance is in nats.
        params: name -> (tasks, ...), the starting points.
        data: nest of tensors with a leading task axis.
        steps: the most linearisations; 0 evaluates the start.
        fast: names or patterns of the parameters that move.
        tolerance: a task is done when a plain step would lower its cost by less than this.
        linearized: residuals and Jacobian of the whole batch, where the caller has a faster way than ``jacfwd``.

    Reference: Marquardt, J. SIAM 11, 431 (1963), with damping relative to the diagonal.

    >>> solution = gauss_newton(lambda p, y: p["a"] ** 2 - y, {"a": torch.ones(2)}, torch.tensor([[4.0], [9.0]]))
    >>> solution.params["a"], solution.converged
    (tensor([2., 3.]), tensor([True, True]))
    """
    if (residuals is None) == (linearized is None):
        raise TypeError("gauss_newton needs either residuals (of one task) or linearized (of the batch)")
    moving, held = split_fast(params, fast)
    linearize = linearized or _linearizer(residuals)
    shapes = {name: value.shape for name, value in moving.items()}
    start = torch.cat([value.reshape(len(value), -1) for value in moving.values()], -1).detach()  # (tasks, parameters)
    index = torch.arange(len(start), device=start.device)
    r, jac, cost = _evaluate(linearize, start, shapes, held, data)
    now = _State(index, start, r, jac, cost, torch.zeros_like(cost), held, data)
    found = Solution(start.clone(), torch.zeros_like(cost).bool(), cost.clone(), jac.clone(), torch.zeros_like(index))
    for count in range(steps + 1):
        step, decrease = _damped_step(now.jac, now.r, now.damping)
        plain = _damped_step(now.jac, now.r, torch.zeros_like(now.damping))[1] if now.damping.any() else decrease
        finite = now.cost < torch.inf
        # At rounding level no step can lower the cost any more: that, too, is the solution.
        done = (plain <= tolerance + 1e-14 * now.cost) & finite
        leave = done | (now.damping > 1e12) | ~finite | (count == steps)
        if leave.any():
            _store(found, leave, now.index, Solution(now.z, done, now.cost, now.jac, torch.full_like(now.index, count)))
            keep = (~leave).nonzero()[:, 0]
            if len(keep) == 0:
                break
            now, step, decrease = _select((now, step, decrease), keep)
        now = _stepped(now, step, decrease, linearize, shapes)
    return found._replace(params={**params, **_unflatten(found.params, shapes)})


class _State(NamedTuple):
    """The tasks still in the batch."""

    index: Tensor  # (tasks,) their rows in the result
    z: Tensor  # (tasks, parameters)
    r: Tensor  # (tasks, residuals)
    jac: Tensor  # (tasks, residuals, parameters)
    cost: Tensor  # (tasks,)
    damping: Tensor  # (tasks,)
    held: Params
    data: Data


def _select(batch: tuple, keep: Tensor) -> tuple:
    """Return the same nest with these tasks alone."""
    return pytree.tree_map(lambda t: t[keep], batch)


def _evaluate(
    linearize: Linearized, z: Tensor, shapes: dict[str, torch.Size], held: Params, data: Data
) -> tuple[Tensor, Tensor, Tensor]:
    """Return residuals, Jacobian and cost; the cost is infinite where any of them is not finite."""
    r, jac = linearize(_unflatten(z, shapes), held, data)
    cost = 0.5 * (r * r).sum(-1)
    good = (cost < torch.inf) & (jac.abs().sum((-2, -1)) < torch.inf)  # false for NaN
    return r, jac, cost.masked_fill(~good, torch.inf)


def _stepped(
    now: _State, step: Tensor, decrease: Tensor, linearize: Linearized, shapes: dict[str, torch.Size]
) -> _State:
    """Return the state after the step, where it lowers the cost, with the damping for the next one."""
    z = now.z + step
    r, jac, cost = _evaluate(linearize, z, shapes, now.held, now.data)
    better = cost <= now.cost
    # A step that gains little of what it promised overshoots: accepted, but damped like a failure.
    good = better & (now.cost - cost >= 0.25 * decrease)
    lighter = torch.where(now.damping > 1e-6, now.damping / 10, torch.zeros_like(now.damping))
    return now._replace(
        z=torch.where(better[:, None], z, now.z),
        r=torch.where(better[:, None], r, now.r),
        jac=torch.where(better[:, None, None], jac, now.jac),
        cost=torch.where(better, cost, now.cost),
        damping=torch.where(good, lighter, (10 * now.damping).clamp(min=0.01)),
    )


def _linearizer(residuals: Residuals) -> Linearized:
    """Return residuals and Jacobian of a batch, by forward mode under one vmap."""

    def linearize(moving: Params, held: Params, data: Data) -> tuple[Tensor, Tensor]:
        def one(moving: Params, held: Params, data: Data) -> tuple[Tensor, Tensor]:
            r = residuals({**held, **moving}, data)
            return r, r

        jac, r = over_tasks(torch.func.jacfwd(one, has_aux=True))(moving, held, data)
        return r, torch.cat([column.reshape(*r.shape, -1) for column in jac.values()], -1)

    return linearize


def _damped_step(jac: Tensor, r: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return each task's step and the decrease of the cost that it predicts; a singular system predicts infinity."""
    hessian = jac.mT @ jac  # (tasks, parameters, parameters)
    gradient = (jac.mT @ r[..., None])[..., 0]
    scale = hessian.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-150)
    scaled = hessian / (scale[:, :, None] * scale[:, None, :])
    scaled = scaled + torch.diag_embed(damping[:, None].expand_as(scale))
    factor, info = torch.linalg.cholesky_ex(scaled)
    step = -torch.cholesky_solve((gradient / scale)[..., None], factor)[..., 0] / scale
    decrease = -0.5 * (step * gradient).sum(-1)
    bad = (info != 0) | ~(decrease < torch.inf)
    return step.masked_fill(bad[:, None], torch.nan), decrease.masked_fill(bad, torch.inf)


def _store(found: Solution, leave: Tensor, index: Tensor, now: Solution) -> None:
    """Write the tasks that leave the batch to their rows of the result."""
    for target, value in zip(found, now, strict=True):
        target[index[leave]] = value[leave]


def _unflatten(point: Tensor, shapes: dict[str, torch.Size]) -> Params:
    """Return name -> (tasks, ...) from rows of concatenated parameters."""
    sizes = [shape[1:].numel() for shape in shapes.values()]
    parts = point.split(sizes, -1)
    return {
        name: part.reshape(len(point), *shape[1:]) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }

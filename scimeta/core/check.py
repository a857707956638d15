"""Is the meta-gradient right? In float64, against a plain Python loop and against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.door import check_batch
from scimeta.core.embedding import FoundPadding
from scimeta.core.inner_loop import split_fast
from scimeta.core.learners import MetaLearner
from scimeta.core.recording import Execution, execution
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Loss, Params, Task, at_step, count_tasks, select_tasks

_TOLERANCE = 1e-6  # relative to the gradient's norm
_STEP = 1e-5  # of the central differences, relative to the size of the tensor that is moved
_ENDED = 2**40  # outer steps after which every schedule has ended


@dataclass(frozen=True)
class GradientCheck:
    """How far a meta-gradient lies from the truth; prints as a table.

    Attributes:
        learner: the algorithm's name.
        estimate: what the meta-gradient claims to be, as in ``MetaLearner.estimate``.
        names: ("init.weight", ..., "rule.weight", ...), the tensors that are learned.
        norm: the norm of each one's meta-gradient.
        plain: its relative distance from that of a plain loop.
        finite: relative distance of the derivative along a random direction from central differences; nan for a
            displacement, which is no derivative.
    """

    learner: str
    estimate: str
    names: tuple[str, ...]
    norm: tuple[float, ...]
    plain: tuple[float, ...]
    finite: tuple[float, ...]

    @property
    def ok(self) -> bool:
        """Whether all distances that the estimate promises to be zero are below 1e-6."""
        promised = self.plain + (self.finite if self.estimate in ("exact", "implicit", "truncated") else ())
        return all(distance < _TOLERANCE for distance in promised)

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "parameter")))
        head = f"{'parameter':<{width}}  {'norm':>9}  {'plain loop':>10}  {'differences':>11}"
        rows = [
            f"{name:<{width}}  {norm:9.2e}  {plain:10.1e}  {finite:11.1e}"
            for name, norm, plain, finite in zip(self.names, self.norm, self.plain, self.finite, strict=True)
        ]
        verdict = "right" if self.ok else "WRONG"
        note = {
            "first_order": "; differences show what the second-order part would add",
            "displacement": "; a displacement is no derivative",
        }.get(self.estimate, "")
        return "\n".join([f"Meta-gradient of {self.learner} ({self.estimate}): {verdict}{note}", head, *rows])


def check_meta_gradient(
    loss: Loss, learner: MetaLearner, task: Task, *, how: Execution = "recorded", seed: int = 0
) -> GradientCheck:
    """Return the learner's meta-gradient compared, in float64, with a plain loop and with finite differences.

    The plain loop goes over the tasks in Python and differentiates by torch.autograd alone: no torch.func, no vmap, no
    recording. Schedules are taken at their end, and what comes before a window is held. For implicit MAML the loop is
    differentiated through all inner steps, which is the same where the inner loop has converged.

    Args:
        loss: scalar loss of one task for the plain loop: the learner's own, or the same model written in another way
            (the module as it was before ``functional`` made it fit for batching).
        learner: what is checked.
        task: a small batch of tasks.
        how: "eager", "recorded" or "compiled".
        seed: of the directions of the finite differences.

    Raises:
        TypeError, ValueError: what the door finds wrong with the loss or the batch; a learner by evolution, whose
            gradient is a random estimate, that only the mean of many draws could be compared with; one with ``clip``,
            whose gradient is no derivative.

    >>> from scimeta.core.learners import maml
    >>> def cubic(params, x):
    ...     return ((params["a"] * x) ** 3).sum()
    >>> learner = maml(cubic, {"a": torch.tensor(1.0)}, lr=0.1)
    >>> check_meta_gradient(cubic, learner, Task(torch.ones(2, 1), torch.ones(2, 1))).ok
    True
    """
    if learner.estimate == "evolution":
        raise ValueError(
            "check_meta_gradient: evolution gives a random estimate; compare the mean of many draws (other seeds) with "
            "the gradient of a learned_optimizer without burn-in"
        )
    if learner.estimate == "clipped":
        raise ValueError(
            "check_meta_gradient: derivatives are clipped on their way back; check the learner without clip"
        )
    meta, task = pytree.tree_map(_double, (learner.meta, Task(*task)))
    learner = learner._replace(meta=meta)
    task = check_batch(learner, task, "check_meta_gradient")
    with execution(how):
        _, gradient = learner.meta_gradient(meta, task, _ENDED)
    truth = _plain_gradient(loss, learner, task)
    # A tensor whose gradient is zero but for rounding (a bias before a normalisation) is judged by the others' size.
    floor = 1e-4 * float(torch.stack([leaf.norm() for leaf in pytree.tree_leaves(truth)]).norm())
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for part in Meta._fields:
        for name, ours in getattr(gradient, part).items():
            plain = getattr(truth, part)[name]
            norm = float(ours.norm())
            scale = max(norm, float(plain.norm()), floor, 1e-300)
            finite = _finite_difference(loss, learner, task, part, name, ours, scale, generator)
            rows.append((f"{part}.{name}", norm, float((ours - plain).norm()) / scale, finite))
    return GradientCheck(learner.name, learner.estimate, *map(tuple, zip(*rows, strict=True)))


def _double(leaf: object) -> object:
    return leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _judge(loss: Loss, learner: MetaLearner) -> Loss:
    return loss if learner.query_loss is learner.adapt.loss else learner.query_loss


def _plain_path(loss: Loss, learner: MetaLearner, meta: Meta, support: Data) -> list[Params]:
    """Return the parameters of one task after each judged step, as part of an ordinary autograd graph."""
    inner, before = learner.adapt, _burn_in(learner)
    moving, held = split_fast(meta.init, inner.fast)
    state, path = inner.rule.init(moving), []
    if before:  # led to by what is learned as it stands, whatever is differentiated or moved a little after it
        moving, state = _burned_in(loss, learner, support, before)
    for count in range(before, before + inner.steps):
        moving, state = _plain_step(loss, learner, meta.rule, held, moving, state, at_step(support, count))
        path.append({**held, **moving})
    return path


def _plain_step(
    loss: Loss, learner: MetaLearner, learned: Params, held: Params, moving: Params, state: Any, seen: Data
) -> tuple[Params, Any]:
    grads = torch.autograd.grad(loss({**held, **moving}, seen), list(moving.values()), create_graph=True)
    grads = [grad.to_dense() for grad in grads]  # an embedding may make sparse ones
    if learner.adapt.first_order:
        grads = [grad.detach() for grad in grads]
    return learner.adapt.rule.update(learned, dict(zip(moving, grads, strict=True)), state, moving)


def _burn_in(learner: MetaLearner) -> int:
    return 0 if learner.truncation is None else learner.truncation.length(_ENDED)


def _burned_in(loss: Loss, learner: MetaLearner, support: Data, steps: int) -> tuple[Params, Any]:
    """Return the fast parameters and the rule's state where the judged steps begin, as constants."""
    moving, held = split_fast(learner.meta.init, learner.adapt.fast)
    state = learner.adapt.rule.init(moving)
    for count in range(steps + 1):
        moving = {name: value.detach().requires_grad_() for name, value in moving.items()}
        state = pytree.tree_map(Tensor.detach, state)
        if count < steps:
            seen = at_step(support, count)
            moving, state = _plain_step(loss, learner, learner.meta.rule, held, moving, state, seen)
    return moving, state


def _plain_losses(loss: Loss, learner: MetaLearner, meta: Meta, task: Task) -> Tensor:
    """Return the mean over tasks of the (weighted) query losses."""
    judge, total = _judge(loss, learner), 0.0
    weights = None if learner.step_weights is None else learner.step_weights(_ENDED)
    factors = _factors(learner, count_tasks(task))
    for index, factor in enumerate(factors):
        one = select_tasks(task, index)
        path = _plain_path(lambda params, seen, c=factor: c * loss(params, seen), learner, meta, one.support)
        if weights is None:
            total = total + judge(path[-1], one.query)
        else:
            total = total + sum(w * judge(params, one.query) for w, params in zip(weights, path, strict=True))
    return total / count_tasks(task)


def _factors(learner: MetaLearner, tasks: int) -> Tensor:
    """Return (tasks,) factors of the inner losses."""
    like = next(iter(learner.meta.init.values()))
    return like.new_ones(tasks) if learner.truncation is None else learner.truncation.factors(_ENDED, tasks, like)


def _plain_gradient(loss: Loss, learner: MetaLearner, task: Task) -> Meta:
    meta = pytree.tree_map(lambda leaf: leaf.clone().requires_grad_(), learner.meta)
    if learner.estimate == "displacement":
        ends = [
            _plain_path(loss, learner, meta, select_tasks(task, index).support)[-1]
            for index in range(count_tasks(task))
        ]
        init = {n: (value - sum(end[n] for end in ends) / len(ends)).detach() for n, value in meta.init.items()}
        return Meta(init, {name: torch.zeros_like(value) for name, value in meta.rule.items()})
    leaves, spec = pytree.tree_flatten(meta)
    grads = torch.autograd.grad(_plain_losses(loss, learner, meta, task), leaves, allow_unused=True)
    return pytree.tree_unflatten(
        [torch.zeros_like(x) if grad is None else grad for x, grad in zip(leaves, grads, strict=True)], spec
    )


def _finite_difference(
    loss: Loss,
    learner: MetaLearner,
    task: Task,
    part: str,
    name: str,
    gradient: Tensor,
    scale: float,
    generator: torch.Generator,
) -> float:
    """Return |g'd - (L(+h d) - L(-h d)) / 2h| / scale for a random direction d of length 1."""
    if learner.estimate == "displacement":
        return float("nan")
    value = getattr(learner.meta, part)[name]
    direction = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype).to(gradient.device)
    if part == "init" and (rows := _padding_rows(loss, learner, task, name)):
        direction[rows] = 0.0  # they move the loss, and have by agreement no derivative
    direction = direction / direction.norm().clamp(min=1e-300)
    h = _STEP * max(1.0, float(value.norm()))

    def at(distance: float) -> float:
        moved = {**getattr(learner.meta, part), name: value + distance * direction}
        meta = learner.meta._replace(**{part: moved})
        meta = pytree.tree_map(lambda leaf: leaf.clone().requires_grad_(), meta)
        return float(_plain_losses(loss, learner, meta, task).detach())

    slope = (at(h) - at(-h)) / (2 * h)
    return abs(float((gradient * direction).sum()) - slope) / scale


def _padding_rows(loss: Loss, learner: MetaLearner, task: Task, name: str) -> list[int]:
    """Return the rows of a parameter that embeddings hold in either loss."""
    one, params = select_tasks(task, 0), learner.meta.init
    with torch.no_grad(), FoundPadding() as found:
        loss(params, at_step(one.support, 0))
        _judge(loss, learner)(params, one.query)
    return sorted(found.rows.get(id(params[name]), ()))

"""Meta-learners: each algorithm is an inner rule, a meta-gradient and a choice of what is fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.meta_gradient import MetaGradient, StepWeights, displacement, implicit, through_adaptation
from scimeta.core.rules import Meta, Rule, learned_rates, proximal, sgd
from scimeta.core.tasks import Loss, Params, Task
from scimeta.core.window import Truncation


class MetaLearner(NamedTuple):
    """A meta-learning algorithm on a loss, with what it starts from.

    Attributes:
        name: the algorithm.
        meta: what the outer loop learns.
        adapt: (meta, support of one task) -> its adapted parameters.
        meta_gradient: (meta, batch of tasks, outer steps done) -> (tasks,) query losses, gradient of their mean.
        query_loss: scalar loss of one task that judges the adapted parameters.
        estimate: what the meta-gradient is: the "exact" derivative of the query loss after the inner loop; its
            "first_order" part; a "displacement"; "implicit", exact where the inner loop has converged; "truncated",
            exact where the window begins at the start, else without what came before it; "clipped", the same with long
            derivatives shortened on the way; or an unbiased "evolution".
        step_weights: outer steps done -> weights of the query loss after each inner step; None judges the last alone.
        truncation: where in the inner loop the judged steps lie; None for at its start.
    """

    name: str
    meta: Meta
    adapt: Adaptation
    meta_gradient: MetaGradient
    query_loss: Loss
    estimate: Literal["exact", "first_order", "displacement", "implicit", "truncated", "clipped", "evolution"] = "exact"
    step_weights: StepWeights | None = None
    truncation: Truncation | None = None


def maml(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.01,
    steps: int = 1,
    fast: Sequence[str] = ("*",),
    rule: Rule | None = None,
    query_loss: Loss | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return model-agnostic meta-learning: the start is learned by the derivative through the inner loop.

    Args:
        loss: scalar loss of one task, (params, data) -> (): a pure function. Its operations are recorded at the first
            call and replayed for the learner's whole life, with the Python numbers and tensors that it closes over (a
            tensor written to in place is read anew; ``evaluate`` always runs afresh). What changes is part of the data,
            or belongs to a new learner. ``meta_train`` says so where a loss has changed; a loop of your own can ask
            ``scimeta.core.fresh.check_recording``, or turn recording off by ``scimeta.core.recording.execution``.
        params: name -> tensor, the starting point.
        lr: inner step size.
        steps: inner steps.
        fast: names or patterns of the parameters that the inner loop moves.
        rule: the inner rule in place of ``sgd(lr)``, made for the fast parameters; its own parameters are learned too.
        query_loss: judges the adapted parameters; None for ``loss``.
        adjoint: see :func:`scimeta.core.meta_gradient.through_adaptation`.
        chunk_size: tasks held in memory at once; None for all.

    Raises:
        TypeError: params are not a flat dictionary of floating-point tensors.
        ValueError: no steps, or a fast pattern that matches nothing.

    Reference: Finn, Abbeel, Levine, Model-agnostic meta-learning, ICML 2017.

    >>> def loss(params, x):
    ...     return (params["a"] - x) ** 2
    >>> learner = maml(loss, {"a": torch.tensor(0.0)}, lr=0.25)
    >>> losses, gradient = learner.meta_gradient(learner.meta, Task(torch.tensor([1.0]), torch.tensor([1.0])), 0)
    >>> losses, gradient.init["a"]
    (tensor([0.2500]), tensor(-0.5000))
    """
    return _through("MAML", loss, params, rule or sgd(lr), steps, fast, query_loss, adjoint, chunk_size)


def fomaml(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.01,
    steps: int = 1,
    fast: Sequence[str] = ("*",),
    rule: Rule | None = None,
    query_loss: Loss | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return first-order MAML: the query gradient at the adapted point stands for the derivative by the start.

    Arguments, errors and reference as for :func:`maml`.
    """
    rule = rule or sgd(lr)
    return _through("FOMAML", loss, params, rule, steps, fast, query_loss, adjoint, chunk_size, first_order=True)


def meta_sgd(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.01,
    steps: int = 1,
    fast: Sequence[str] = ("*",),
    query_loss: Loss | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return MAML that learns, with the start, a step size for every element of the fast parameters.

    Arguments as for :func:`maml`; lr is where the step sizes start.

    Reference: Li, Zhou, Chen, Li, Meta-SGD, arXiv:1707.09835 (2017).
    """
    params = checked(params)
    rule = learned_rates(split_fast(params, fast)[0], lr)
    return _through("Meta-SGD", loss, params, rule, steps, fast, query_loss, adjoint, chunk_size)


def anil(
    loss: Loss,
    params: Params,
    *,
    fast: Sequence[str],
    lr: float = 0.01,
    steps: int = 1,
    rule: Rule | None = None,
    query_loss: Loss | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return MAML whose inner loop moves only the named parameters (a head, a latent code, a mass); all are learned.

    Arguments as for :func:`maml`.

    Reference: Raghu, Raghu, Bengio, Vinyals, Rapid learning or feature reuse?, ICLR 2020.
    """
    return _through("ANIL", loss, params, rule or sgd(lr), steps, fast, query_loss, adjoint, chunk_size)


def maml_plus_plus(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.01,
    steps: int = 5,
    multi_step_until: int = 0,
    first_order_until: int = 0,
    fast: Sequence[str] = ("*",),
    query_loss: Loss | None = None,
    adjoint: bool | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return MAML with learned step sizes for each tensor and step, a multi-step loss and annealed derivative order.

    Args:
        multi_step_until: outer steps during which the query loss after every inner step counts: all the same at first,
            then more and more the last alone. 0 for the last alone from the beginning.
        first_order_until: outer steps during which the meta-gradient is first-order.
        loss, params, lr, steps, fast, query_loss, adjoint, chunk_size: as for :func:`maml`.

    Reference: Antoniou, Edwards, Storkey, How to train your MAML, ICLR 2019.
    """
    params, judge = checked(params), query_loss or loss
    rule = learned_rates(split_fast(params, fast)[0], lr, steps=counted(steps), per="tensor")
    for name, until in (("multi_step_until", multi_step_until), ("first_order_until", first_order_until)):
        if not isinstance(until, int) or until < 0:
            raise ValueError(f"maml_plus_plus: {name} is a number of outer steps, 0 or more; got {until!r}")
    some = next(iter(params.values()))

    def weights(step: int) -> Tensor:
        late = min(1.0, step / multi_step_until)
        each = torch.full((steps,), (1 - late) / steps, dtype=some.dtype, device=some.device)
        each[-1] += late
        return each

    step_weights = weights if multi_step_until else None
    adapt = Adaptation(loss, rule, steps, tuple(fast))
    early, full = (
        through_adaptation(each, judge, step_weights=step_weights, adjoint=adjoint, chunk_size=chunk_size)
        for each in (replace(adapt, first_order=True), adapt)
    )

    def meta_gradient(meta: Meta, task: Task, step: int = 0) -> tuple[Tensor, Meta]:
        return (early if step < first_order_until else full)(meta, task, step)

    return MetaLearner("MAML++", Meta(params, rule.params), adapt, meta_gradient, judge, "exact", step_weights)


def reptile(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.01,
    steps: int = 5,
    fast: Sequence[str] = ("*",),
    rule: Rule | None = None,
    query_loss: Loss | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return Reptile: the start moves towards where the tasks' inner loops ended.

    Its "gradient" is start - mean of the ends, so that an outer SGD of rate eps is the published update. The query data
    are only reported on. Arguments as for :func:`maml`; a rule's own parameters are not learned.

    Reference: Nichol, Achiam, Schulman, On first-order meta-learning algorithms, arXiv:1803.02999 (2018).
    """
    params, rule, judge = checked(params), rule or sgd(lr), query_loss or loss
    split_fast(params, fast)
    adapt = Adaptation(loss, rule, counted(steps), tuple(fast))
    gradient = displacement(adapt, judge, chunk_size=chunk_size)
    return MetaLearner("Reptile", Meta(params, rule.params), adapt, gradient, judge, "displacement")


def imaml(
    loss: Loss,
    params: Params,
    *,
    lr: float = 0.1,
    steps: int = 100,
    strength: float = 1.0,
    cg_steps: int = 10,
    fast: Sequence[str] = ("*",),
    rule: Rule | None = None,
    query_loss: Loss | None = None,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return implicit MAML: the inner loop minimises loss + strength / 2 |params - start|^2, to convergence.

    Args:
        steps: inner steps, enough for the rule to converge: the meta-gradient is that of the minimum, and is wrong
            without a word short of it. (1 - lr strength)^steps should be far below 1; ``check_meta_gradient`` tells.
        strength: of the pull towards the start; the larger, the shorter the way from it.
        cg_steps: conjugate-gradient steps of the meta-gradient.
        rule: an inner rule without learnable parameters in place of ``sgd(lr)``; the pull is added to it.
        loss, params, lr, fast, query_loss, chunk_size: as for :func:`maml`.

    Raises:
        ValueError: the rule has parameters of its own, of which a minimum knows nothing.

    Reference: Rajeswaran, Finn, Kakade, Levine, Meta-learning with implicit gradients, NeurIPS 2019.
    """
    params, rule, judge = checked(params), rule or sgd(lr), query_loss or loss
    if rule.params:
        raise ValueError("imaml: a minimum does not depend on the rule's way to it; give a rule without parameters")
    if cg_steps < 1:
        raise ValueError(f"imaml: cg_steps is at least 1; got {cg_steps}")
    split_fast(params, fast)
    adapt = Adaptation(loss, proximal(rule, strength), counted(steps), tuple(fast))
    gradient = implicit(adapt, judge, strength, cg_steps=cg_steps, chunk_size=chunk_size)
    return MetaLearner("implicit MAML", Meta(params, {}), adapt, gradient, judge, "implicit")


def _through(
    name: str,
    loss: Loss,
    params: Params,
    rule: Rule,
    steps: int,
    fast: Sequence[str],
    query_loss: Loss | None,
    adjoint: bool | None,
    chunk_size: int | None,
    first_order: bool = False,
) -> MetaLearner:
    params, judge = checked(params), query_loss or loss
    split_fast(params, fast)
    adapt = Adaptation(loss, rule, counted(steps), tuple(fast), first_order)
    gradient = through_adaptation(adapt, judge, adjoint=adjoint, chunk_size=chunk_size)
    estimate = "first_order" if first_order else "exact"
    return MetaLearner(name, Meta(params, rule.params), adapt, gradient, judge, estimate)


def checked(params: Params) -> Params:
    """Return detached copies of the parameters, or raise what is wrong with them."""
    if not isinstance(params, dict):
        raise TypeError(
            f"params is a dictionary name -> tensor; got {type(params).__name__}. "
            "For a module: params, apply = functional(module)"
        )
    if not params:
        raise ValueError("params is empty: there is nothing to learn")
    for name, value in params.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"params[{name!r}] is {kind}; only floating-point tensors can be learned")
    devices = {value.device for value in params.values()}
    if len(devices) > 1:
        raise ValueError(f"params lie on {', '.join(sorted(map(str, devices)))}; move them to one device")
    for name, value in params.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"params[{name!r}] has values that are not finite")
    return {name: value.detach().clone() for name, value in params.items()}


def counted(steps: int) -> int:
    """Return the number of inner steps, or raise ValueError unless it is positive."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is a positive integer; got {steps!r}")
    return steps

"""Meta-learners of update rules: by windows of the inner loop, or by evolution over all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scimeta.core.evolution import evolution
from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.learners import MetaLearner, checked, counted
from scimeta.core.rules import Meta, Rule
from scimeta.core.tasks import Loss, Params
from scimeta.core.window import Truncation, through_window


def learned_optimizer(
    loss: Loss,
    init: Params,
    *,
    rule: Rule,
    steps: int = 20,
    query_loss: Loss | None = None,
    burn_in: int = 0,
    growth: int = 0,
    rescale: float = 1.0,
    weights: Sequence[float] | None = None,
    clip: float | None = None,
    fast: Sequence[str] = ("*",),
    seed: int = 0,
    chunk_size: int | None = None,
) -> MetaLearner:
    """Return a learner of update rules: a window of inner steps, anywhere in the inner loop, is differentiated through.

    What is learned minimises the mean of the query loss after each step of the window. ``meta_train`` with
    ``learn=("rule.*",)`` learns the rule alone; with all of it, the start as well, which learns from the windows that
    begin there. The rule is taken to know any number of steps: none is guarded (see ``Adaptation``).

    Args:
        loss: scalar loss of one task; see :func:`maml`. With a ``Stream`` as support it gets another slice at each
            step, so that noise and minibatches are those of the step.
        init: name -> tensor, where every task starts.
        rule: with learnable parameters of its own.
        steps: inner steps of the window.
        query_loss: judges the parameters after each step; None for ``loss``. Where the sizes of the tasks' losses
            differ, their logarithm gives each its say.
        burn_in: the most steps before the window, run without gradient; their number is drawn evenly from 0, a new
            one for each outer step. A Stream should have ``burn_in + steps`` slices.
        growth: outer steps over which the most grows from 0 to ``burn_in``.
        rescale: each task's inner loss is multiplied by a factor drawn log-uniformly from 1 / rescale to rescale, so
            that the rule meets all steepnesses; the query loss is not.
        weights: of the query loss after each step of the window; None for their mean.
        clip: the norm down to which, on the way back through the window, each task's derivative by its parameters is
            scaled at every step where it is larger, so that no task outweighs all others; a task whose derivative is
            not finite is left out. None leaves the derivative exact.
        fast: names or patterns of the parameters that the inner loop moves.
        seed: of the draws, which depend on it and the outer step alone: a run that is resumed draws the same. Of
            several processes, each draws factors of its own.
        chunk_size: tasks held in memory at once; None for all.

    Raises:
        TypeError: params are not a flat dictionary of floating-point tensors, or there is no rule.
        ValueError: no steps, a rule without parameters, or a number out of its range.

    Reference: Andrychowicz et al., Learning to learn by gradient descent by gradient descent, NeurIPS 2016; Metz et
    al., Understanding and correcting pathologies in the training of learned optimizers, ICML 2019.

    >>> from scimeta.core.rules import learned_rates
    >>> from scimeta.core.tasks import Task
    >>> start = {"x": torch.tensor([1.0, -1.0])}
    >>> learner = learned_optimizer(lambda p, a: a * (p["x"] ** 2).sum(), start, rule=learned_rates(start, 0.1))
    >>> losses, gradient = learner.meta_gradient(learner.meta, Task(torch.ones(3), torch.ones(3)), 0)
    >>> losses.shape, bool((gradient.rule["x"] < 0).all())
    (torch.Size([3]), True)
    """
    truncation = _truncation(burn_in, growth, rescale, seed)
    init, adapt = _optimizing(loss, init, rule, steps, fast)
    judge, meta, each = query_loss or loss, Meta(init, rule.params), _weights(weights, steps)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is a positive number, or None; got {clip!r}")
    gradient = through_window(adapt, judge, truncation, weights=each, clip=clip, chunk_size=chunk_size)
    estimate = "truncated" if clip is None else "clipped"
    return MetaLearner("learned optimiser", meta, adapt, gradient, judge, estimate, lambda step: each, truncation)


def evolved_optimizer(
    loss: Loss,
    init: Params,
    *,
    rule: Rule,
    steps: int = 100,
    window: int = 20,
    pairs: int = 1,
    sigma: float = 0.01,
    over: Sequence[str] = ("rule.*",),
    query_loss: Loss | None = None,
    rescale: float = 1.0,
    fast: Sequence[str] = ("*",),
    seed: int = 0,
) -> MetaLearner:
    """Return a learner of update rules by persistent evolution strategies: long inner loops, nothing differentiated.

    Each outer step runs the whole inner loop, and judges by the mean of the query loss after each of its steps.

    Args:
        steps: inner steps, all of them judged.
        window, pairs, sigma, over: as in :func:`scimeta.core.evolution.evolution`; ``window=steps`` for ordinary
            antithetic evolution strategies.
        loss, init, rule, query_loss, rescale, fast, seed: as for :func:`learned_optimizer`. Of several processes, each
            draws perturbations and factors of its own.

    Raises:
        TypeError, ValueError: as for :func:`learned_optimizer`.

    Reference: Vicol, Metz, Sohl-Dickstein, Unbiased gradient estimation in unrolled computation graphs with persistent
    evolution strategies, ICML 2021.
    """
    truncation = _truncation(0, 0, rescale, seed)
    init, adapt = _optimizing(loss, init, rule, steps, fast)
    judge, meta = query_loss or loss, Meta(init, rule.params)
    gradient = evolution(adapt, judge, window=window, pairs=pairs, sigma=sigma, over=over, truncation=truncation)
    each = _weights(None, steps)
    return MetaLearner("evolved optimiser", meta, adapt, gradient, judge, "evolution", lambda step: each, truncation)


def _optimizing(loss: Loss, init: Params, rule: Rule, steps: int, fast: Sequence[str]) -> tuple[Params, Adaptation]:
    """Return the checked start and the inner loop of a rule that is learned for any number of steps."""
    if not isinstance(rule, Rule):
        raise TypeError(f"rule is a Rule, such as learned_rates(params, 0.1) gives; got {type(rule).__name__}")
    if not rule.params:
        raise ValueError("the rule has no parameters of its own, so there is nothing to learn; use maml with it")
    init = checked(init)
    split_fast(init, fast)
    return init, Adaptation(loss, rule, counted(steps), tuple(fast), guarded=False)


def _truncation(burn_in: int, growth: int, rescale: float, seed: int) -> Truncation:
    for name, number in (("burn_in", burn_in), ("growth", growth), ("seed", seed)):
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"{name} is an integer, 0 or more; got {number!r}")
    if not 1 <= rescale < float("inf"):
        raise ValueError(f"rescale is 1 or more (30 draws factors from 1/30 to 30); got {rescale!r}")
    return Truncation(burn_in, growth, float(rescale), seed)


def _weights(weights: Sequence[float] | None, steps: int) -> Tensor:
    """Return (steps,) weights of the query losses, equal ones for None."""
    each = torch.full((steps,), 1 / steps, dtype=torch.float64)
    if weights is None:
        return each
    each = torch.as_tensor(weights, dtype=torch.float64)
    if each.shape != (steps,) or not (torch.isfinite(each).all() and (each != 0).any()):
        raise ValueError(f"weights are {steps} finite numbers, one for each step and not all zero; got {weights!r}")
    return each

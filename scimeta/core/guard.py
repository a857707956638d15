"""A guard: a rule whose steps are taken back where the gradients say that the loss has risen."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.learned_rule import check_state, in_units, joined, split_like
from scimeta.core.rules import Rule
from scimeta.core.tasks import Params

_MEMORY = 0.9  # share of what a past step counts when the next one is judged
_CREDIT = 0.5  # of a fall that can be lost again; on a steep slope the trapezoid rule makes too much of a fall
_SIGNIFICANCE = 3.0  # standard deviations of what noise feigns, from which on a rise counts
_RISE = 1.03  # by which the level can grow at one step; noise that grows faster is taken for divergence
_FALL = 0.2  # share by which it follows downwards
_INDEPENDENT = 10  # the most elements whose noise is taken to be independent
_SHORTER, _LONGER = 0.25, 2.0  # a step's length after one that has failed, and after one that has not
_SHORTEST = 0.01  # of a failed step, where a parabola through the slopes says even less


class _Watch(NamedTuple):
    """What the guard remembers of one task."""

    started: Tensor  # () 0 before the first finite gradient, then 1
    point: Tensor  # (elements,) the last one that was accepted
    grad: Tensor  # (elements,) the gradient there
    unit: Tensor  # () 1 / root mean square of the first gradient that was not zero, 0 before; the judge's unit
    safe: Tensor  # (elements,) the fallback's step from there
    own: Tensor  # () 1 where the step that is judged is the rule's, 0 where it is the fallback's
    part: Tensor  # () of the fallback's step that is taken
    longest: Tensor  # () length of a step of the rule
    slack: Tensor  # () how much the loss may rise: by half of what it lately fell
    travelled: Tensor  # () sum of squared lengths of the latest steps
    level: Tensor  # () squared length that the noise of a gradient may have
    first: Tensor  # () squared length of the first gradient, the most that the level can be
    rule: Any
    fallback: Any


def guarded(rule: Rule, fallback: Rule) -> Rule:
    """Return the rule under a guard that keeps it from diverging, whatever it has learned.

    The guard needs no loss. Along a step d the loss changes by (g before + g after) d / 2, by the trapezoid rule:
    exactly where the loss is quadratic. Where that is more than half of what the loss lately fell, by more than noise
    in the gradients can feign, the step is taken back: one of ``fallback`` is taken from the point before, and a
    quarter of it, and so on, while that fails as well. The rule's own next steps are no longer than the way to where a
    parabola through the two slopes has its minimum (at most a quarter of the failed one, at least the fallback's); each
    that succeeds doubles that. A step to where the gradient is not finite is taken back, too; one that is not finite
    itself is replaced at once. A gradient that is not finite at the start moves nothing.

    The level of the noise is estimated from how much consecutive gradients differ across the step. It starts with the
    length of the first gradient, never passes it, and grows slowly, so that a diverging path is not taken for noise.
    What the guard cannot see is what noise hides: below that level the loss may rise.

    To a meta-gradient, what the guard finds is a constant: which steps are taken back, and how long others may be.

    Args:
        rule: what is guarded; its parameters stay learnable.
        fallback: a classical rule. It sees every accepted gradient, so that its averages are up to date.

    Raises:
        TypeError: one of the two is no rule.
        ValueError: the fallback has learnable parameters.

    Reference: Zhang and Hager, SIAM J. Optim. 14, 1043 (2004) (non-monotone descent); Heaton, Chen, Wang, Yin,
    Safeguarded learned convex optimization, AAAI 2023.

    >>> from scimeta.core.rules import sgd
    >>> wild = guarded(sgd(100.0), sgd(0.1))
    >>> params, state = {"p": torch.tensor(1.0)}, wild.init({"p": torch.tensor(1.0)})
    >>> for _ in range(20):
    ...     params, state = wild.update({}, params, state, params)  # the loss p^2 / 2
    >>> bool(abs(state.point[0]) < 1)
    True
    """
    if not (isinstance(rule, Rule) and isinstance(fallback, Rule)):
        kinds = f"{type(rule).__name__} and {type(fallback).__name__}"
        raise TypeError(f"guarded: rule and fallback are Rules, such as controller() and momentum(0.01); got {kinds}")
    if fallback.params:
        raise ValueError(
            "guarded: fallback is a classical rule, such as momentum(0.01); this one has learnable parameters: "
            f"{', '.join(fallback.params)}"
        )

    def init(params: Params) -> _Watch:
        x = joined(params, params)
        zero, one, none = x.new_zeros(()), x.new_ones(()), torch.zeros_like(x)
        most = zero + torch.finfo(x.dtype).max
        start = _Watch(zero, x, none, zero, none, one, one, most, zero, zero, zero, zero, (), ())
        return start._replace(rule=rule.init(params), fallback=fallback.init(params))

    def update(learned: Params, grads: Params, watch: _Watch, params: Params) -> tuple[Params, _Watch]:
        x, g = joined(params, params), joined(grads, params)
        check_state("guarded", watch, _Watch, point=(len(x),))
        # What the judge finds is a constant on the way back, on which a zero would often meet an infinity.
        good, taken, kept = _judge(*pytree.tree_map(Tensor.detach, (x, g, watch)))
        kept = kept._replace(**{name: getattr(watch, name) for name in ("point", "grad", "safe", "rule", "fallback")})
        # What is rejected is kept out of the rules: they see the last good point again, and this is forgotten.
        x, g = torch.where(good, x, watch.point), torch.where(good, g, watch.grad)
        params, grads = split_like(params, x), split_like(params, g)
        moved, rule_state = rule.update(learned, grads, watch.rule, params)
        back, fallback_state = fallback.update({}, grads, watch.fallback, params)
        step, safe = joined(moved, params) - x, joined(back, params) - x
        safe = torch.where(torch.isfinite(safe).all(), safe, 0.0)
        step = _no_longer(torch.where(torch.isfinite(step).all(), step, safe), taken.longest)
        taken = taken._replace(point=x, grad=g, safe=safe, rule=rule_state, fallback=fallback_state)
        step = torch.where(good, step, watch.started * kept.part * watch.safe)
        return split_like(params, x + step), pytree.tree_map(lambda new, old: torch.where(good, new, old), taken, kept)

    return rule._replace(init=init, update=update)


def _judge(x: Tensor, g: Tensor, watch: _Watch) -> tuple[Tensor, _Watch, _Watch]:
    """Return whether the step to x is accepted, and what the watch knows if it is and if it is not."""
    started, count = watch.started > 0, len(x)
    finite, (g, unit) = torch.isfinite(g).all(), in_units(g, watch.unit)
    before, _ = in_units(watch.grad, unit)
    step, change = x - watch.point, g - before
    square, bend, downhill = (step * step).sum(), (change * step).sum(), -(before * step).sum()
    length = _length(step)
    rise = 0.5 * bend - downhill
    travelled = watch.travelled + square
    # Two gradients' noise along the step, from that of their difference over all elements.
    noise = 0.5 * watch.level.sqrt() * travelled.sqrt() / min(count, _INDEPENDENT) ** 0.5
    held = torch.isfinite(rise) & torch.isfinite(travelled)  # a step so long that it cannot be judged is no good one
    lower = held & (rise <= watch.slack + _SIGNIFICANCE * noise)
    good = finite & (~started | lower | (square == 0))  # where nothing moved there is nothing to take back
    across = (change * change).sum() - (bend * bend / square.clamp(min=1e-30) if count > 1 else 0.0)
    first = torch.where(started, watch.first, (g * g).sum())
    level = torch.minimum(_RISE * watch.level, watch.level + _FALL * (across - watch.level))
    taken = watch._replace(
        started=torch.ones_like(watch.started),
        unit=unit,
        own=torch.ones_like(watch.own),
        part=(_LONGER * watch.part).clamp(max=1.0),
        longest=torch.maximum(watch.longest, _LONGER * length).clamp(max=torch.finfo(x.dtype).max),
        slack=torch.where(started, _MEMORY * (watch.slack - torch.maximum(rise, _CREDIT * rise)), 0.0),
        travelled=torch.where(started, _MEMORY**2 * travelled, 0.0),
        level=torch.where(started, torch.fmin(level, first).clamp(min=0), first),
        first=first,
    )
    least = watch.part * _length(watch.safe)
    shorter = torch.where(held, length * (downhill / bend).nan_to_num(0.0).clamp(_SHORTEST, _SHORTER), 0.0)
    kept = watch._replace(
        own=torch.zeros_like(watch.own),
        part=torch.where(watch.own > 0, watch.part, _SHORTER * watch.part),
        longest=torch.where(started & (watch.own > 0), torch.maximum(shorter, least), watch.longest),
        slack=_MEMORY * watch.slack,
    )
    return good, taken, kept


def _length(step: Tensor) -> Tensor:
    """Return the length of a step, also where its square is too large or small to hold."""
    if not len(step):
        return step.sum()
    largest = step.detach().abs().amax().clamp(min=1e6 * torch.finfo(step.dtype).tiny)  # cancels
    return largest * ((step / largest) ** 2).sum().clamp(min=1e-12).sqrt()


def _no_longer(step: Tensor, longest: Tensor) -> Tensor:
    return (longest / torch.maximum(_length(step), longest)) * step

"""Inner-loop update rules: pairs of pure functions with learnable parameters of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scimeta.core.tasks import Params

State = Any


class Rule(NamedTuple):
    """How a gradient moves the fast parameters.

    Attributes:
        params: the rule's own learnable parameters; {} for plain SGD.
        init: fast parameters -> state before the first step.
        update: (rule parameters, gradients, state, fast parameters) -> (new fast parameters, new state).
    """

    params: Params
    init: Callable[[Params], State]
    update: Callable[[Params, Params, State, Params], tuple[Params, State]]


class Meta(NamedTuple):
    """All that an outer loop learns.

    Attributes:
        init: parameters from which every task starts.
        rule: the update rule's own parameters.
    """

    init: Params
    rule: Params


def sgd(lr: float) -> Rule:
    """Return gradient descent with one fixed step size, p <- p - lr g.

    >>> rule = sgd(0.1)
    >>> rule.update({}, {"p": torch.tensor(2.0)}, None, {"p": torch.tensor(1.0)})[0]
    {'p': tensor(0.8000)}
    """

    def update(_: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        return {name: value - lr * grads[name] for name, value in params.items()}, state

    return Rule({}, _stateless, update)


def momentum(lr: float, decay: float = 0.9, *, nesterov: bool = False) -> Rule:
    """Return gradient descent with momentum, v <- decay v + g, p <- p - lr v (nesterov: p <- p - lr (g + decay v)).

    Reference: Polyak, USSR Comput. Math. Math. Phys. 4, 1 (1964); Nesterov, Soviet Math. Dokl. 27, 372 (1983).

    >>> rule = momentum(0.1)
    >>> params = {"p": torch.tensor(1.0)}
    >>> rule.update({}, {"p": torch.tensor(2.0)}, rule.init(params), params)
    ({'p': tensor(0.8000)}, {'p': tensor(2.)})
    """

    def init(params: Params) -> Params:
        return {name: torch.zeros_like(value) for name, value in params.items()}

    def update(_: Params, grads: Params, velocity: Params, params: Params) -> tuple[Params, Params]:
        velocity = {name: decay * velocity[name] + grad for name, grad in grads.items()}
        step = {n: grads[n] + decay * velocity[n] for n in grads} if nesterov else velocity
        return {name: value - lr * step[name] for name, value in params.items()}, velocity

    return Rule({}, init, update)


def adam(lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Rule:
    """Return Adam, p <- p - lr m / sqrt(v + eps), with m and v the corrected averages of g and g^2.

    eps stands inside the root, so that the step can be differentiated where a gradient is zero.

    Reference: Kingma and Ba, Adam, ICLR 2015; the place of eps: optax's ``eps_root``.

    >>> rule = adam(0.1)
    >>> params = {"p": torch.tensor(1.0)}
    >>> rule.update({}, {"p": torch.tensor(2.0)}, rule.init(params), params)[0]
    {'p': tensor(0.9000)}
    """
    first, second = betas

    def init(params: Params) -> tuple[Tensor, Params, Params]:
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return _zero(params), zeros, zeros

    def update(_: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        count, m, v = state
        count = count + 1
        m = {name: first * m[name] + (1 - first) * grad for name, grad in grads.items()}
        v = {name: second * v[name] + (1 - second) * grad * grad for name, grad in grads.items()}
        m_scale, v_scale = 1 / (1 - first**count), 1 / (1 - second**count)
        steps = {n: lr * (m_scale * m[n]) / (v_scale * v[n] + eps).sqrt() for n in params}
        return {n: p - steps[n].to(p.dtype) for n, p in params.items()}, (count, m, v)

    return Rule({}, init, update)


def learned_rates(
    params: Params, lr: float, *, steps: int | None = None, per: Literal["element", "tensor"] = "element"
) -> Rule:
    """Return gradient descent with learnable step sizes, p <- p - rate * g.

    Args:
        params: the fast parameters, for the shapes.
        lr: the rates' starting value.
        steps: None for the same rates at every step; else so many sets of rates, one for each inner step (further steps
            use the last).
        per: "element" for a rate for every element (Meta-SGD), "tensor" for one for every tensor (MAML++, which learns
            one for every layer and step).

    Raises:
        ValueError: an unknown ``per``, or no steps.

    Reference: Li, Zhou, Chen, Li, Meta-SGD, arXiv:1707.09835 (2017); Antoniou, Edwards, Storkey, How to train your
    MAML, ICLR 2019.

    >>> rule = learned_rates({"w": torch.zeros(2, 3)}, 0.1, steps=5, per="tensor")
    >>> rule.params["w"].shape
    torch.Size([5])
    """
    if per not in ("element", "tensor"):
        raise ValueError(f'learned_rates: per is "element" or "tensor"; got {per!r}')
    if steps is not None and steps < 1:
        raise ValueError(f"learned_rates: steps is at least 1, or None for the same rates at every step; got {steps}")
    shapes = {name: value.shape if per == "element" else () for name, value in params.items()}
    sets = () if steps is None else (steps,)
    rates = {name: value.new_full((*sets, *shapes[name]), lr) for name, value in params.items()}

    def update(rates: Params, grads: Params, count: State, params: Params) -> tuple[Params, State]:
        if steps is not None:
            now = count.long().clamp(max=steps - 1)
            rates = {name: rate.index_select(0, now[None])[0] for name, rate in rates.items()}
            count = count + 1
        return {name: value - rates[name] * grads[name] for name, value in params.items()}, count

    return Rule(rates, _stateless if steps is None else _zero, update)


def preconditioned(
    params: Params,
    lr: float,
    form: Literal["diagonal", "low_rank", "full"] = "full",
    *,
    rank: int = 4,
    generator: torch.Generator | None = None,
) -> Rule:
    """Return gradient descent through a learnable matrix over all fast parameters together, p <- p - M g.

    Args:
        params: the fast parameters, (elements,) when flattened and joined in their order.
        lr: M starts as lr times the identity.
        form: "diagonal" (``learned_rates``), "low_rank" (diagonal + left right') or "full".
        rank: columns of left and right.
        generator: randomness of right's start (left starts at zero, so that M starts as said); used by "low_rank".

    Raises:
        ValueError: an unknown form, or a rank below 1.

    Reference: Park and Oliva, Meta-Curvature, NeurIPS 2019 (learned matrices that transform the inner gradient).

    >>> rule = preconditioned({"mass": torch.tensor(1.0), "centre": torch.zeros(3)}, 0.1)
    >>> rule.params["matrix"].shape
    torch.Size([4, 4])
    """
    if form == "diagonal":
        return learned_rates(params, lr)
    if form not in ("low_rank", "full"):
        raise ValueError(f'preconditioned: form is "diagonal", "low_rank" or "full"; got {form!r}')
    if rank < 1:
        raise ValueError(f"preconditioned: rank is at least 1; got {rank}")
    start = _flatten(params)
    if form == "full":
        learned = {"matrix": lr * torch.eye(len(start), dtype=start.dtype, device=start.device)}
    else:
        right = torch.randn(len(start), rank, generator=generator, dtype=start.dtype) / len(start) ** 0.5
        left = torch.zeros_like(right)
        learned = {"diagonal": torch.full_like(start, lr), "left": left.to(start), "right": right.to(start)}

    def update(learned: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        g = _flatten(grads)  # (elements,)
        if form == "full":
            step = learned["matrix"] @ g
        else:
            step = learned["diagonal"] * g + learned["left"] @ (learned["right"].mT @ g)
        pieces = step.split([value.numel() for value in params.values()])
        steps = {n: piece.reshape(params[n].shape).to(params[n].dtype) for n, piece in zip(params, pieces, strict=True)}
        return {name: value - steps[name] for name, value in params.items()}, state

    return Rule(learned, _stateless, update)


def clipped(rule: Rule, norm: float) -> Rule:
    """Return the rule fed with gradients that are scaled down, all together, where their joint norm exceeds ``norm``.

    >>> rule = clipped(sgd(1.0), 0.5)
    >>> rule.update({}, {"p": torch.tensor(2.0)}, None, {"p": torch.tensor(1.0)})[0]
    {'p': tensor(0.5000)}
    """
    if not norm > 0:
        raise ValueError(f"clipped: norm is a positive number; got {norm}")

    def update(learned: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        square = sum((grad * grad).sum() for grad in grads.values())
        # The root is taken of what is at least norm^2, so that it has a derivative where the gradient is zero.
        scale = norm / square.clamp(min=norm * norm).sqrt()
        return rule.update(learned, {n: scale.to(grad.dtype) * grad for n, grad in grads.items()}, state, params)

    return rule._replace(update=update)


def proximal(rule: Rule, strength: float) -> Rule:
    """Return the rule on the loss + strength / 2 |p - start|^2, which holds the parameters near their start.

    Reference: Rajeswaran, Finn, Kakade, Levine, Meta-learning with implicit gradients, NeurIPS 2019.
    """
    if not strength > 0:
        raise ValueError(f"proximal: strength is a positive number; got {strength}")

    def init(params: Params) -> State:
        return rule.init(params), params

    def update(learned: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        inner, start = state
        pulled = {name: grad + strength * (params[name] - start[name]) for name, grad in grads.items()}
        moved, inner = rule.update(learned, pulled, inner, params)
        return moved, (inner, start)

    return Rule(rule.params, init, update)


def _zero(params: Params) -> Tensor:
    """Return a count of zero, in a floating type so that it can be differentiated past, with room to count in."""
    some = next(iter(params.values()))
    return some.new_zeros((), dtype=torch.promote_types(some.dtype, torch.float32))


def _flatten(params: Params) -> Tensor:
    return torch.cat([value.reshape(-1) for value in params.values()])


def _stateless(params: Params) -> tuple:
    return ()

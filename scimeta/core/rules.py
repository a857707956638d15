"""Inner-loop update rules: pairs of pure functions with learnable parameters of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

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

    return Rule({}, lambda params: None, update)


def learned_rates(params: Params, lr: float) -> Rule:
    """Return gradient descent with a learnable step size for every element, p <- p - rate * g (Meta-SGD).

    Args:
        params: the fast parameters, for the shapes.
        lr: the rates' starting value.

    Reference: Li, Zhou, Chen, Li, Meta-SGD, arXiv:1707.09835 (2017).
    """

    def update(rates: Params, grads: Params, state: State, params: Params) -> tuple[Params, State]:
        return {name: value - rates[name] * grads[name] for name, value in params.items()}, state

    return Rule({name: torch.full_like(value, lr) for name, value in params.items()}, lambda params: None, update)

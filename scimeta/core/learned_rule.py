"""Learned update rules that act on every element alike, by a small network each; and the parts learned rules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scimeta.core.rules import Rule
from scimeta.core.tasks import Params

_DECAYS = (0.5, 0.9, 0.99)  # of the running means of g
_SQUARE_DECAYS = (0.9, 0.99)  # of those of g^2
_TINY = 1e-12  # added to squared gradients, in units of the first one's mean square
_LARGEST = 1e12  # root mean square of a gradient, in that unit; float32 holds no squares of much larger ones
_INPUTS = 3 + len(_DECAYS) + len(_SQUARE_DECAYS) + 2


class _Elements(NamedTuple):
    """What a coordinate-wise rule remembers; gradients in units of the first one's root mean square."""

    count: Tensor  # () steps since the first gradient that was not zero
    unit: Tensor  # () 1 / root mean square of that gradient; 0 before
    means: Tensor  # (decays, elements)
    squares: Tensor  # (square decays, elements)
    hidden: Tensor  # (elements, hidden)
    cell: Tensor  # (elements, hidden)


def coordinate_lstm(hidden: int = 20, *, step: float = 0.1, generator: torch.Generator | None = None) -> Rule:
    """Return a rule that moves every element by one LSTM, the same for all, each with its own memory.

    The network sees the gradient as sign and log-magnitude, relative to its running root mean squares; running means at
    three lengths; and the number of steps. Its outputs (size, turn) make the step
    -step exp(size) (m / sqrt(v) + turn), with Adam's m and v: untrained it is close to Adam.

    A multiple of the loss gives the same steps, and reordered elements reordered ones; a rotation does not give rotated
    ones. The state has 2 hidden + 5 numbers for each element.

    Args:
        hidden: width of the LSTM.
        step: size of a step before training.
        generator: randomness of the network's start; None for the same start always.

    Raises:
        ValueError: no hidden unit, or a step that is not positive.

    Reference: Andrychowicz et al., Learning to learn by gradient descent by gradient descent, NeurIPS 2016; Lv, Jiang,
    Li, Learning gradient descent: better generalization and longer horizons, ICML 2017.

    >>> rule = coordinate_lstm()
    >>> params = {"p": torch.tensor([1.0, 2.0])}
    >>> rule.update(rule.params, {"p": torch.tensor([2.0, 0.0])}, rule.init(params), params)[0]["p"].shape
    torch.Size([2])
    """
    _check_sizes("coordinate_lstm", hidden, step)
    learned = {**lstm_start(_INPUTS, hidden, 2, generator), "log_step": torch.tensor(step).log()}
    return _coordinate_rule("coordinate_lstm", learned, hidden, lstm_cell)


def coordinate_mlp(hidden: int = 32, *, step: float = 0.1, generator: torch.Generator | None = None) -> Rule:
    """Return a rule that moves every element by one small network without memory of its own, the same for all.

    Inputs and outputs are those of :func:`coordinate_lstm`; two hidden layers stand in for the LSTM, and the running
    means are all that it remembers.

    Args, Raises: as for :func:`coordinate_lstm`; hidden is the width of both layers.

    Reference: Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting pathologies in the
    training of learned optimizers, ICML 2019.

    >>> sorted(coordinate_mlp(8).params)
    ['bias', 'bias_out', 'bias_two', 'log_step', 'out', 'read', 'two']
    """
    _check_sizes("coordinate_mlp", hidden, step)
    generator = generator or _fixed()
    learned = {
        "read": _random((_INPUTS, hidden), _INPUTS**-0.5, generator),
        "bias": torch.zeros(hidden),
        "two": _random((hidden, hidden), hidden**-0.5, generator),
        "bias_two": torch.zeros(hidden),
        "out": _random((hidden, 2), 0.01, generator),
        "bias_out": torch.zeros(2),
        "log_step": torch.tensor(step).log(),
    }

    def network(learned: Params, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = torch.tanh(inputs @ learned["read"] + learned["bias"])
        second = torch.tanh(first @ learned["two"] + learned["bias_two"])
        return second @ learned["out"] + learned["bias_out"], hidden, cell

    return _coordinate_rule("coordinate_mlp", learned, 0, network)


def lstm_start(inputs: int, hidden: int, outputs: int, generator: torch.Generator | None) -> Params:
    """Return starting weights of an LSTM and of a layer that reads it; the forget gates start open."""
    generator = generator or _fixed()
    bias = torch.zeros(4 * hidden)
    bias[hidden : 2 * hidden] = 1.0
    return {
        "read": _random((inputs + hidden, 4 * hidden), (inputs + hidden) ** -0.5, generator),
        "bias": bias,
        "out": _random((hidden, outputs), 0.01, generator),
        "bias_out": torch.zeros(outputs),
    }


def lstm_cell(learned: Params, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (..., outputs), hidden and cell (..., hidden); by hand, since vmap has no rule for nn.LSTMCell."""
    gates = torch.cat([inputs, hidden], -1) @ learned["read"] + learned["bias"]
    enter, keep, new, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
    hidden = torch.sigmoid(leave) * torch.tanh(cell)
    return hidden @ learned["out"] + learned["bias_out"], hidden, cell


def joined(values: Params, like: Params) -> Tensor:
    """Return (elements,) all values of one task in the order of the names of like, in float32 at least."""
    flat = torch.cat([values[name].reshape(-1) for name in like])
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def split_like(params: Params, flat: Tensor) -> Params:
    """Return (elements,) values as tensors of the names, shapes and types of params."""
    pieces = flat.split([value.numel() for value in params.values()])
    return {n: piece.reshape(p.shape).to(p.dtype) for (n, p), piece in zip(params.items(), pieces, strict=True)}


def _inverse_size(g: Tensor) -> Tensor:
    """Return 1 / root mean square, or 0 where all is zero; nothing very large or small is squared."""
    if not len(g):
        return g.sum()
    largest = g.detach().abs().amax()  # cancels, so that it needs no derivative
    some = largest.clamp(min=1e6 * torch.finfo(g.dtype).tiny)  # so that what is returned can be held
    g = g / some
    return torch.where(largest > 0, (g * g).mean().clamp(min=1e-12).rsqrt() / some, largest)


def in_units(g: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return g in units of the first gradient that was not zero, shortened where it is far larger; and 1 / that unit.

    Args:
        g: (elements,).
        unit: () 1 / root mean square of that first gradient; 0 before.
    """
    now = _inverse_size(g)
    unit = torch.where(unit > 0, unit, now)
    return torch.minimum(unit, torch.where(now > 0, _LARGEST * now, unit)) * g, unit


def check_state(rule: str, state: Any, kind: type, **shapes: tuple[int, ...]) -> None:
    """Raise where a rule's state is not of its kind, or these tensors of it not of these shapes."""
    if not isinstance(state, kind):
        raise ValueError(f"{rule}: the state is another rule's ({type(state).__name__}); begin with init(params)")
    made = {name: tuple(getattr(state, name).shape) for name in shapes}
    if made != shapes:
        came, expected = (", ".join(f"{n} {shape}" for n, shape in each.items()) for each in (made, shapes))
        raise ValueError(
            f"{rule}: the state was made for other parameters, or by a rule of another size. Expected {expected}; got "
            f"{came}. Begin with init(params)"
        )


def check_learned(rule: str, learned: Params, made: Params) -> None:
    """Raise where a rule's learned parameters are not of the names and shapes with which the rule was made."""
    if {n: tuple(p.shape) for n, p in learned.items()} != {n: tuple(p.shape) for n, p in made.items()}:
        expected, came = (", ".join(f"{n} {tuple(p.shape)}" for n, p in one.items()) for one in (made, learned))
        raise ValueError(
            f"{rule}: the learned parameters are of another rule or size. Expected {expected}; got {came}. "
            "Make the rule with the sizes it was trained with"
        )


def _coordinate_rule(name: str, start: Params, hidden: int, network: Callable[..., tuple[Tensor, ...]]) -> Rule:
    """Return the rule that moves every element by a network (learned, inputs, hidden, cell) -> (outputs, both anew)."""

    def init(params: Params) -> _Elements:
        flat = joined(params, params)
        zero = flat.new_zeros(())
        means, squares = (flat.new_zeros(len(decays), len(flat)) for decays in (_DECAYS, _SQUARE_DECAYS))
        return _Elements(
            zero, zero, means, squares, flat.new_zeros(len(flat), hidden), flat.new_zeros(len(flat), hidden)
        )

    def update(learned: Params, grads: Params, state: _Elements, params: Params) -> tuple[Params, _Elements]:
        check_learned(name, learned, start)
        x, g = joined(params, params), joined(grads, params)
        check_state(name, state, _Elements, means=(len(_DECAYS), len(x)), hidden=(len(x), hidden))
        learned = {key: value.to(x.dtype) for key, value in learned.items()}
        inputs, adam, state = _element_inputs(g, state)
        out, after, cell = network(learned, inputs, state.hidden, state.cell)
        size, turn = out.unbind(-1)
        moved = x - torch.exp(learned["log_step"] + size) * (adam + turn) * (state.unit > 0)
        return split_like(params, moved), state._replace(hidden=after, cell=cell)

    return Rule(start, init, update)


def _element_inputs(g: Tensor, state: _Elements) -> tuple[Tensor, Tensor, _Elements]:
    """Return (elements, inputs) of the network, Adam's direction (elements,) and the state with this gradient in it."""
    g, unit = in_units(g, state.unit)
    decays, square_decays = g.new_tensor(_DECAYS)[:, None], g.new_tensor(_SQUARE_DECAYS)[:, None]
    count = state.count + (unit > 0).to(g)
    means = decays * state.means + (1 - decays) * g
    squares = square_decays * state.squares + (1 - square_decays) * g * g
    last = count.clamp(min=1)  # before the first gradient there is nothing to correct
    m = means / (1 - decays**last)
    v = squares / (1 - square_decays**last) + _TINY
    root = v[1].sqrt()
    near = g / root
    size = 0.5 * torch.log(near * near + 1e-8)
    sign = near / torch.sqrt(near * near + 1e-8)
    times = torch.stack([torch.log1p(count) / 3, 1 / (count + 1)])[:, None].expand(-1, len(g))
    inputs = torch.cat([torch.stack([near, sign, size / 3]), m / root, v.log() / 6, times]).mT
    return inputs, m[1] / root, state._replace(count=count, unit=unit, means=means, squares=squares)


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _random(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
    return scale * torch.randn(shape, generator=generator)


def _check_sizes(name: str, hidden: int, step: float) -> None:
    if not isinstance(hidden, int) or hidden < 1:
        raise ValueError(f"{name}: hidden is a positive integer; got {hidden!r}")
    if not 0 < step < float("inf"):
        raise ValueError(f"{name}: step is a positive number; got {step!r}")

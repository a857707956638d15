"""A learned controller: an LSTM that sees scale-free statistics of the way so far and steers a classical rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.core.learned_rule import (
    check_learned,
    check_state,
    in_units,
    joined,
    lstm_cell,
    lstm_start,
    split_like,
)
from scimeta.core.recording import without_autocast
from scimeta.core.rules import Rule
from scimeta.core.tasks import Params

_RESOLUTION = 1e-8  # squared length, relative to gradient step and last step together, below which a direction is zero
_LEAST = 1e-30  # keeps a quotient finite where nothing has moved
_LOG_RIDGE = -2.3  # before training
_FORGETTING = 3.0  # a mean over all t points weighs them by about the square of their number: the start fades
_SLOWING = 10.0  # steps after which the step size changes ever more slowly: as a power of their number, by one output
_GROWTH = 2.0  # about how much longer than the last one a step can be


class _Way(NamedTuple):
    """What the controller remembers of one task; gradients in units of the first one's root mean square."""

    count: Tensor  # () steps since the first gradient that was not zero
    unit: Tensor  # () 1 / root mean square of that gradient; 0 before
    log_rate: Tensor  # () logarithm of the step size
    log_ridge: Tensor  # () logarithm of the least-squares fit's ridge
    points: Tensor  # (pairs, elements) last point, and running means of the points
    grads: Tensor  # (pairs, elements) last gradient, and running means of the gradients
    squares: Tensor  # (pairs - 1,) running means of the gradients' squared length
    hidden: Tensor  # (hidden,)
    cell: Tensor  # (hidden,)


def controller(
    memory: Sequence[float] = (5.0, 1000.0),
    *,
    hidden: int = 24,
    step: float = 0.3,
    generator: torch.Generator | None = None,
) -> Rule:
    """Return a rule whose step size, momentum and further weights an LSTM sets anew at every step.

    The step is a weighted sum of directions: the gradient g times the step size, the last step s and the change y of
    the gradient over it; and, for each memory, the way from the running mean of the points to here and the change of
    the gradient over that. Two last directions come from a ridge fit of g by all the y: the way along the s that undoes
    what the fit explains, and the gradient that it leaves. Last steps tell curvature and means of many tell it through
    noise; the weights make momentum, Nesterov's rule, quasi-Newton steps and averages of the points alike.

    The LSTM sees the cosines between the directions, their lengths relative to each other, the fit, how much of the
    gradient its running means keep (signal against noise) and the number of steps. It sets the weights, the ridge and
    by how much the step size changes: ever less, so that one constant output lets it fall as a power of the number of
    steps. A step becomes at most about twice as long as the last, and shorter after one that ran into a wall.

    The rule knows neither the loss's scale nor the axes: a multiple of the loss gives the same steps, a rotated
    problem rotated ones, and any number of elements can move. All fast parameters count together, so they should have
    comparable units. The first step has ``step`` as its root mean square.

    Args:
        memory: lengths of the running means, in steps; one longer than the inner loop means all points, the late ones
            most. () leaves gradient, momentum and the gradient's change.
        hidden: width of the LSTM.
        step: root mean square of the first step, before training.
        generator: randomness of the LSTM's start; None for the same start always.

    Raises:
        ValueError: a memory of less than one step, no hidden unit, a step that is not positive.

    Reference: Anderson, J. ACM 12, 547 (1965) (the fit); Barzilai and Borwein, IMA J. Numer. Anal. 8, 141 (1988)
    (curvature from two gradients); Polyak and Juditsky, SIAM J. Control Optim. 30, 838 (1992) (averages).

    >>> rule = controller()
    >>> params = {"p": torch.tensor([1.0, 2.0])}
    >>> moved, state = rule.update(rule.params, {"p": torch.tensor([2.0, 0.0])}, rule.init(params), params)
    >>> moved["p"].shape
    torch.Size([2])
    """
    memory = tuple(float(length) for length in memory)
    if not all(1 < length < float("inf") for length in memory):
        raise ValueError(f"controller: memory holds lengths of more than one step; got {memory}")
    if not isinstance(hidden, int) or hidden < 1:
        raise ValueError(f"controller: hidden is a positive integer; got {hidden!r}")
    if not 0 < step < float("inf"):
        raise ValueError(f"controller: step is a positive number; got {step!r}")
    pairs = 1 + len(memory)
    directions = 1 + 2 * pairs
    inputs = directions * directions + directions + 2 * pairs + 1
    made = lstm_start(inputs, hidden, directions + 4, generator) | {"log_step": torch.tensor(step).log()}
    made["bias_out"][0], made["bias_out"][1] = -1.0, 0.8  # the gradient and the last step
    fixed = torch.tensor((1.0, *(1 / length for length in memory))), torch.eye(pairs)

    def init(params: Params) -> _Way:
        flat = joined(params, params)
        zero, none = flat.new_zeros(()), flat.new_zeros(hidden)
        points = flat.expand(pairs, -1).clone()
        ridge = zero + _LOG_RIDGE
        return _Way(zero, zero, zero, ridge, points, torch.zeros_like(points), flat.new_zeros(pairs - 1), none, none)

    def update(learned: Params, grads: Params, way: _Way, params: Params) -> tuple[Params, _Way]:
        check_learned("controller", learned, made)
        x, g = joined(params, params), joined(grads, params)
        check_state("controller", way, _Way, points=(pairs, len(x)), hidden=(hidden,))
        learned = {name: value.to(x.dtype) for name, value in learned.items()}
        shares, eye = (value.to(x) for value in fixed)
        with without_autocast():  # half precision would leave nothing of the differences that the fit rests on
            basis, squares, way = _remember(shares, g, x, learned["log_step"], way)
            features, basis, longest = _look(basis, squares, eye, way)
            out, after, cell = lstm_cell(learned, features, way.hidden, way.cell)
            weights, change, ridge = out.split([len(basis), 1, 1])
            move = weights @ basis  # (elements,)
        move = move * (1 + (move * move).sum() / (longest + _LEAST)).rsqrt()
        change = 2 * torch.tanh(change[0]) * _SLOWING / (_SLOWING + way.count)
        log_rate, ridge = way.log_rate + change, (_LOG_RIDGE + 3 * ridge[0]).clamp(-12.0, 5.0)
        way = way._replace(log_rate=log_rate, log_ridge=ridge, hidden=after, cell=cell)
        return split_like(params, x + move), way

    return Rule(made, init, update)


def _remember(shares: Tensor, g: Tensor, x: Tensor, log_step: Tensor, way: _Way) -> tuple[Tensor, Tensor, _Way]:
    """Return (directions, elements) of g, each s and each y; mean squares / g^2; and the way with this point in it."""
    started = way.unit > 0
    g, unit = in_units(g, way.unit)
    rate = torch.where(started, way.log_rate, log_step)
    share = torch.maximum(shares, _FORGETTING / (way.count + _FORGETTING))  # (pairs,) of this point in each mean
    # The first pair is the last step itself; the others are taken to the mean that has this point in it. No step lies
    # behind the first point.
    old = 1 - share
    old = torch.cat([started.to(g)[None], old[1:]])[:, None]
    d_points, d_grads = x - way.points, g - way.grads  # (pairs, elements)
    step_size = rate.exp()
    basis = torch.cat([(step_size * g)[None], old * d_points, (step_size * old) * d_grads])
    now = (g * g).sum() + _LEAST
    squares = now + old[1:, 0] * (way.squares - now)
    share = share[:, None]
    way = way._replace(
        count=way.count + (unit > 0),
        unit=unit,
        log_rate=rate,
        points=way.points + share * d_points,
        grads=way.grads + share * d_grads,
        squares=squares,
    )
    return basis, squares / now, way


def _look(basis: Tensor, squares: Tensor, eye: Tensor, way: _Way) -> tuple[Tensor, Tensor, Tensor]:
    """Return the LSTM's inputs, (directions + 2, elements) directions with those of the fit, and a step's bound."""
    pairs = len(eye)
    gram = basis @ basis.mT
    lengths = gram.diagonal()
    of_g, of_s, _ = lengths.split([1, 1, 2 * pairs - 1])
    longest = torch.where(of_s > 0, of_s, of_g)
    gram = gram / (of_g + of_s + _LEAST)
    longest = _growth(gram, pairs) * longest
    lengths = gram.diagonal()
    size = lengths + _RESOLUTION  # (directions,)
    scale = size.rsqrt()
    cosines = gram * scale[:, None] * scale
    own, ways, changes = basis.split([1, pairs, pairs])
    # The least squares of g + sum of c y, with a ridge: how far back along each s the gradient can be undone.
    ridge = (way.log_ridge.exp() + 1e-6) * eye
    known = cosines[1 + pairs :]
    fit = -torch.linalg.solve(known[:, 1 + pairs :] + ridge, known[:, 0])  # (pairs,)
    weights = ((fit * scale[1 + pairs :]) / scale[:1])[None]
    basis = torch.cat([basis, weights @ ways, own + weights @ changes])
    # The mean gradients are g - y, without the last pair's; their squared lengths follow from the inner products.
    of_g, *_, slow = lengths.split([1, 1 + pairs, pairs - 1])
    kept = (of_g - 2 * gram[0, 2 + pairs :] + slow).clamp(min=0) + _RESOLUTION
    count = (way.count - 1).clamp(min=0)
    features = torch.cat(
        [
            cosines.flatten(),
            size.log().clamp(max=20.0) / 6,
            (kept / (squares * of_g + _RESOLUTION)).log() / 3,
            fit.clamp(-5.0, 5.0) / 2,
            torch.stack([torch.log1p(count) / 3, 1 / (count + 1)]),
        ]
    )
    return features, basis, longest


def _growth(gram: Tensor, pairs: int) -> Tensor:
    """Return by how much a step's squared length can pass the last one's: 4, and less where the last one overshot.

    By the trapezoid rule the loss rose by (g before + g) s / 2 along the last step s. That is set against what s could
    have gained, |g before| |s|: noise reaches the like of it, a step into a steep wall a multiple.
    """
    s, y = 1, 1 + pairs
    before = gram[0, 0] - 2 * gram[0, y] + gram[y, y]
    rise = (2 * gram[0, s] - gram[s, y]).clamp(min=0)
    overshoot = (rise * rise / (gram[s, s] * before + 1e-20)).clamp(max=1e6)
    return _GROWTH**2 / (1 + 0.25 * overshoot * overshoot)

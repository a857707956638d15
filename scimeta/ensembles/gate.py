"""A gate: weights of experts that depend on the input, pulled towards the best fixed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from scipy.optimize import minimize
from torch import Tensor

from scimeta.ensembles.blend import learn_blend, row_log_losses, row_losses
from scimeta.ensembles.ranks import Ranks, feature_ranks, ranked
from scimeta.ensembles.weights import log_pool, log_probabilities, zero_means

PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_FLOOR = 0.05  # share of equal weights in the start, so that an expert of fixed weight 0 can be called upon
_ON_BIAS = 0.01  # of the penalty: shifting all rows' weights alike costs little
_STEPS = 60

Shapes = dict[str, tuple[int, ...]]


class Level(NamedTuple):
    """Rows to learn a gate from.

    Attributes:
        features: (n, features); NaN where unknown.
        Z: (n, experts) values or (n, experts, classes) probabilities, of rows that the experts had not seen.
        y: (n,) target, or number of the true class.
        weights: (n,) of the rows, not all 0.
        groups: (n,) whole numbers; rows of one group are dependent.
    """

    features: ndarray
    Z: ndarray
    y: ndarray
    weights: ndarray
    groups: ndarray

    def at(self, rows: ndarray) -> Level:
        """Return some of the rows, by number or mask."""
        return Level(*(part[rows] for part in self))


class Settings(NamedTuple):
    """What a gate is asked to be.

    Attributes:
        hidden: units of the network.
        top_k: how many experts a row may have; None for all.
        balance: strength of the pull towards experts that are used equally often: times the squared coefficient of
            variation of their mean weights, against a loss of about 1/2.
    """

    hidden: int = 8
    top_k: int | None = None
    balance: float = 0.0


@dataclass(frozen=True, eq=False)
class Gate:
    """Weights w(x) = softmax(log fixed + g(x)) of experts; equal to ``fixed`` everywhere if the kind is "fixed".

    g reads every feature by its rank among the rows that it learned from, interpolated between deciles: units, skew and
    outliers do not matter, and for values beyond those seen it stays what it was at the edge. What is unknown (NaN)
    counts as the middle.

    Attributes:
        kind: "fixed", "linear", or "network" (a hidden layer beside the linear term).
        penalty: strength of the pull towards the fixed weights; infinite for "fixed".
        fixed: (experts,) the best fixed weights.
        top_k: how many experts a row may have; None for all.
        ranks: for every feature some of its values, ascending, and their ranks, mean 0, variance about 1.
        parameters: of g, by name.
    """

    kind: str
    penalty: float
    fixed: ndarray
    top_k: int | None = None
    ranks: Ranks = ()
    parameters: dict[str, Tensor] | None = None

    def __call__(self, features: ndarray) -> ndarray:
        """Return (n, experts) weights for features (n, features): non-negative, every row's sum 1."""
        if self.parameters is None:
            return np.tile(self.fixed, (len(features), 1))
        inputs = torch.from_numpy(ranked(features, self.ranks))
        return _top(_scores(self.parameters, inputs, _start(self.fixed)), self.top_k).softmax(dim=1).numpy()


def mixed(Z: ndarray, weights: ndarray, zero: ndarray | None = None, intercept: float | ndarray = 0.0) -> ndarray:
    """Return what experts say together when every row has its own weights (n, experts).

    That is (n,) means of values (n, experts), or softmax(intercept + sum_j w_j log p_j), (n, classes), of probabilities
    (n, experts, classes): the scales on which :func:`~scimeta.ensembles.blend.learn_blend` adds with fixed weights. An
    expert's 0 counts there as ``zero``, (experts,), or :func:`~scimeta.ensembles.weights.zero_means` of Z.

    >>> mixed(np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    array([1., 2.])
    """
    if Z.ndim == 2:
        return (weights * Z).sum(axis=1)
    return log_pool(Z, weights, zero_means(Z) if zero is None else zero, intercept)


def losses(level: Level, gate: Gate) -> ndarray:
    """Return (n,) the squared error of each row under a gate, or minus the log of its true class's probability."""
    said = mixed(level.Z, gate(level.features))
    return row_losses(said, level.y) if level.Z.ndim == 2 else row_log_losses(said, level.y)


def fixed_gate(level: Level, top_k: int | None = None) -> Gate:
    """Return the best weights that are the same for all rows: convex, of least squares or greatest likelihood.

    >>> Z, y = np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([1.0, 3.0])
    >>> fixed_gate(Level(np.zeros((2, 1)), Z, y, np.ones(2), np.arange(2))).fixed
    array([0., 1.])
    """
    method = "simplex" if level.Z.ndim == 2 else "cc_nloglik"
    fixed = learn_blend(level.Z, level.y, method, sample_weight=level.weights).weights
    if top_k is not None and np.count_nonzero(fixed) > top_k:
        best = np.sort(np.argsort(-fixed, kind="stable")[:top_k])
        fixed = np.zeros_like(fixed)
        fixed[best] = learn_blend(level.Z[:, best], level.y, method, sample_weight=level.weights).weights
    return Gate("fixed", np.inf, fixed, top_k)


def gate_path(level: Level, kind: str, settings: Settings, seed: int) -> Iterator[Gate]:
    """Return gates of one kind under weaker and weaker penalties (:data:`PENALTIES`), each started from the last.

    A gate is of least mean loss + penalty |g|^2 / (sum of row weights), where |g|^2 is the sum of the squared
    coefficients (of a hidden unit's inputs, of their way from a random start) and the loss is half the squared error
    over that of the fixed weights, or the log-loss. With ``top_k`` the loss is the mean of that of all experts and of
    the best k, since the choice of one expert alone has no gradient.

    Args:
        level: rows to learn from.
        kind: "linear" or "network".
        settings: of the gate.
        seed: of the hidden units' start.

    Reference: Jacobs, Jordan, Nowlan, Hinton, Adaptive mixtures of local experts, Neural Computation 3, 79 (1991); for
    top-k and balance: Shazeer et al., Outrageously large neural networks, ICLR 2017.
    """
    fixed = fixed_gate(level, settings.top_k).fixed
    ranks = feature_ranks(level.features, level.weights)
    inputs, start = torch.from_numpy(ranked(level.features, ranks)), _start(fixed)
    shapes = _shapes(inputs.shape[1], len(fixed), settings.hidden if kind == "network" else 0)
    first, costs = _first(shapes, seed), _costs(shapes)
    risk, total = _risk(level, fixed), float(level.weights.sum())
    row_weights = torch.from_numpy(level.weights / total)

    def loss(flat: Tensor) -> Tensor:
        scores = _scores(_named(flat, shapes), inputs, start)  # (n, experts)
        weights = scores.softmax(dim=1)
        found = risk(weights)
        if settings.top_k is not None:
            found = (found + risk(_top(scores, settings.top_k).softmax(dim=1))) / 2
        if settings.balance:
            found = found + settings.balance * len(fixed) * (row_weights @ weights - 1 / len(fixed)).square().sum()
        return found

    flat = first
    for penalty in PENALTIES:
        flat = _minimized(lambda at, pull=penalty / total: loss(at) + pull * (costs @ (at - first).square()), flat)
        yield Gate(kind, penalty, fixed, settings.top_k, ranks, _named(flat, shapes))


def _start(fixed: ndarray) -> Tensor:
    return torch.from_numpy(np.log((1 - _FLOOR) * fixed + _FLOOR / len(fixed)))


def _shapes(features: int, experts: int, hidden: int) -> Shapes:
    network = {"inputs": (features, hidden), "offsets": (hidden,), "outputs": (hidden, experts)}
    return {"linear": (features, experts), "bias": (experts,)} | (network if hidden else {})


def _named(flat: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    pieces = flat.split([prod(shape) for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def _first(shapes: Shapes, seed: int) -> Tensor:
    """Return flat parameters under which g is 0; hidden units start at random, or they would all stay alike."""
    first = torch.zeros(sum(map(prod, shapes.values())), dtype=torch.float64)
    parts, generator = _named(first, shapes), torch.Generator().manual_seed(seed)
    if "inputs" in parts:
        parts["inputs"].normal_(generator=generator).div_(len(parts["inputs"]) ** 0.5)
        parts["offsets"].normal_(generator=generator).div_(2)
    return first


def _costs(shapes: Shapes) -> Tensor:
    """Return the flat weights of the squared parameters in the penalty."""
    costs = torch.ones(sum(map(prod, shapes.values())), dtype=torch.float64)
    _named(costs, shapes)["bias"].fill_(_ON_BIAS)
    return costs


def _scores(parameters: Mapping[str, Tensor], inputs: Tensor, start: Tensor) -> Tensor:
    scores = torch.addmm(start + parameters["bias"], inputs, parameters["linear"])  # (n, experts)
    if "outputs" in parameters:
        hidden = torch.tanh(torch.addmm(parameters["offsets"], inputs, parameters["inputs"]))
        scores = scores + hidden @ parameters["outputs"]
    return scores


def _top(scores: Tensor, top_k: int | None) -> Tensor:
    """Return the scores with all but the greatest k of every row at minus infinity."""
    if top_k is None or top_k >= scores.shape[1]:
        return scores
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(top_k, dim=1).indices, True)
    return scores.masked_fill(~chosen, -torch.inf)


def _together(log_p: Tensor, weights: Tensor) -> Tensor:
    """Return (n, classes) logarithms of the joint probabilities."""
    return torch.einsum("ijc,ij->ic", log_p, weights).log_softmax(dim=1)


def _risk(level: Level, fixed: ndarray) -> Callable[[Tensor], Tensor]:
    """Return the function of (n, experts) weights that says their mean loss, about 1/2 for the fixed ones."""
    w = torch.from_numpy(level.weights / level.weights.sum())
    if level.Z.ndim == 3:
        log_p, true = torch.from_numpy(log_probabilities(level.Z)), torch.from_numpy(level.y)[:, None]
        return lambda weights: -w @ _together(log_p, weights).gather(1, true)[:, 0]
    errors = level.Z - level.y[:, None]
    risk = w.numpy() @ (errors @ fixed) ** 2
    # Of experts that make no error at all nothing can be learned; the bound only keeps that finite.
    scale = np.sqrt(max(2 * risk, np.finfo(float).tiny + 1e-20 * (errors**2).max()))
    scaled = torch.from_numpy(errors / scale)
    return lambda weights: w @ (weights * scaled).sum(dim=1).square()


def _minimized(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the flat parameters of least loss, by L-BFGS on all rows at once."""

    def value_and_gradient(at: ndarray) -> tuple[float, ndarray]:
        flat = torch.tensor(at, requires_grad=True)
        value = loss(flat)
        (gradient,) = torch.autograd.grad(value, flat)
        return value.item(), gradient.numpy()

    found = minimize(value_and_gradient, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return torch.from_numpy(found.x)

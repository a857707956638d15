"""Landscapes: families of problems to minimise, drawn at random, from which optimisers are learned and judged.

A problem is a NamedTuple of tensors that carries its own start; what an optimiser moves is the displacement from it,
``params = {"x": (dimension,)}``, which begins at zero (:func:`origin`). Every family is a sampler
(number, generator) -> Task, whose support is a Stream: each inner step sees the problem and that step's own gradient
noise, the query sees the problem alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.calibration.laws.law import Law
from scimeta.core.tasks import Loss, Params, Stream, Task, TaskSampler

Range = tuple[float, float]

_LOST, _CONVERGED = 100.0, 1e-13  # value over that at the start, beyond which nothing more is to be said


class Quadratic(NamedTuple):
    """A bowl, f(p) = 1/2 (p - centre)' hessian (p - centre).

    Attributes:
        start: (dimension,) where an optimiser begins.
        centre: (dimension,) the optimum, of value zero.
        hessian: (dimension, dimension).
    """

    start: Tensor
    centre: Tensor
    hessian: Tensor

    def value(self, point: Tensor) -> Tensor:
        """Return f at a point (..., dimension)."""
        offset = point - self.centre
        return 0.5 * (offset * (self.hessian @ offset[..., None])[..., 0]).sum(-1)


class CurvedRavine(NamedTuple):
    """Curved valleys side by side, f(u, v) = sum .1 (u - centre)^2 + steepness (v - u^2)^2, after Rosenbrock.

    Attributes:
        start: (2 pairs,) all u, then all v.
        centre: (pairs,) u of the optimum, of value zero.
        steepness: (pairs,) of the valley's walls.
    """

    start: Tensor
    centre: Tensor
    steepness: Tensor

    def value(self, point: Tensor) -> Tensor:
        """Return f at a point (..., 2 pairs)."""
        u, v = point.unflatten(-1, (2, -1)).unbind(-2)
        return (0.1 * (u - self.centre) ** 2 + self.steepness * (v - u * u) ** 2).sum(-1)


class Network(NamedTuple):
    """A regression by a small network, f(p) = 1/2 mean (network(inputs; p) - targets)^2.

    The network is 1-width-1 with tanh inside: p holds, each of length width, the weights in, the biases and the weights
    out, and one last bias.

    Attributes:
        start: (3 width + 1,) weights where an optimiser begins.
        inputs, targets: (points,).
    """

    start: Tensor
    inputs: Tensor
    targets: Tensor

    def value(self, point: Tensor) -> Tensor:
        """Return f at weights (..., 3 width + 1)."""
        return 0.5 * ((_network(point, self.inputs) - self.targets) ** 2).mean(-1)


class LawFit(NamedTuple):
    """A fit of a law's unconstrained parameters to few points; :func:`law_loss` knows the law and gives the value.

    Attributes:
        start: (parameters,) unconstrained, in the law's order.
        x, y: (points,) in the law's units.
        precision: (points,) 1 / standard deviation of a measurement.
    """

    start: Tensor
    x: Tensor
    y: Tensor
    precision: Tensor


def origin(dimension: int, dtype: torch.dtype = torch.float32) -> Params:
    """Return no displacement, the parameters with which every problem begins.

    >>> origin(2)
    {'x': tensor([0., 0.])}
    """
    _check_count("origin: dimension", dimension)
    return {"x": torch.zeros(dimension, dtype=dtype)}


def loss(params: Params, data: tuple[Quadratic | CurvedRavine | Network, Tensor]) -> Tensor:
    """Return f(start + x) + noise . x: the value, and with it a gradient that is off by the noise.

    Args:
        params: {"x": (dimension,)} the displacement from the problem's start.
        data: the problem, and the gradient noise (dimension,) of this step; zeros where the value itself is meant.

    >>> task = quadratics(2, steps=1)(1, torch.Generator().manual_seed(0))
    >>> problem, noise = Quadratic(*(part[0] for part in task.query[0])), task.query[1][0]
    >>> loss({"x": problem.centre - problem.start}, (problem, noise))
    tensor(0.)
    """
    problem, noise = data
    return problem.value(problem.start + params["x"]) + (noise * params["x"]).sum()


def log_reduction(params: Params, data: tuple[Quadratic | CurvedRavine | Network, Tensor]) -> Tensor:
    """Return log10 of f(start + x) / f(start), between -13 and 2: judges an optimiser alike on problems of all sizes.

    The bounds keep what has converged, and what is lost, from outweighing all else; beyond them the slope is zero, and
    so it is for a problem that starts at its optimum.

    Args:
        params, data: as for :func:`loss`; the noise is left out.

    >>> problem = Quadratic(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([[3.0]]))
    >>> log_reduction({"x": torch.tensor([-0.9])}, (problem, torch.zeros(1)))
    tensor(-2.0000)
    """
    (problem, _), x = data, params["x"]
    first = problem.value(problem.start)
    lost = ~(problem.value(problem.start + x.detach()) < _LOST * first)
    # What is lost is judged at the start: a slope of zero through an overflow would be nan.
    ratio = problem.value(problem.start + torch.where(lost, 0.0, x)) / torch.where(lost, 1.0, first)
    return torch.where(lost, _LOST, ratio + _CONVERGED).log10()


def law_loss(law: Law) -> Loss:
    """Return the loss of :func:`law_fits`: half the mean square of the residuals in standard deviations, and the noise.

    Args:
        law: the law whose unconstrained parameters move.

    >>> from scimeta.calibration.laws.law import Parameter
    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> one = torch.ones(1)
    >>> law_loss(decay)({"x": torch.zeros(1)}, (LawFit(0 * one, one, 1 + torch.exp(-one), one), 0 * one))
    tensor(0.5000)
    """
    names = law.names

    def loss(params: Params, data: tuple[LawFit, Tensor]) -> Tensor:
        problem, noise = data
        point = problem.start + params["x"]
        predicted = law.fn(problem.x, **law.constrain(dict(zip(names, point.unbind(-1), strict=True))))
        residuals = problem.precision * (predicted - problem.y)
        return 0.5 * (residuals * residuals).mean() + (noise * params["x"]).sum()

    return loss


def quadratics(
    dimension: int = 10,
    *,
    steps: int,
    noise: float | Sequence[float] = 0.1,
    conditioning: Range = (10.0, 1000.0),
    scale: Range = (0.5, 2.0),
    steepness: Range = (1.0, 1.0),
    rotated: bool = True,
    centre: Tensor | None = None,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> TaskSampler:
    """Return a sampler of bowls and ravines: eigenvalues scale kappa^-u, u ~ U(0, 1) with both ends present.

    Args:
        dimension: of the space, 1 or more.
        steps: inner steps whose gradient noise is drawn; an inner loop with more begins them anew.
        noise: standard deviation of a gradient's components; several: each problem has one of them.
        conditioning: range of kappa, log-uniform.
        scale: range of the largest eigenvalue, log-uniform.
        steepness: range of a factor of the value and of the noise alike, log-uniform.
        rotated: False for axes along the coordinates.
        centre: (dimension,) around which the optima lie; None for zero, where every problem starts.
        spread: standard deviation of the optima's components.
        dtype: of all tensors.

    Raises:
        ValueError: a number or range that makes no problem; a centre of another shape.

    >>> quadratics(3, steps=20)(5, torch.Generator().manual_seed(0)).query[0].hessian.shape
    torch.Size([5, 3, 3])
    """
    _check_count("quadratics: dimension", dimension)
    ranges = {"conditioning": conditioning, "scale": scale, "steepness": steepness}
    for name, (low, high) in ranges.items():
        _check_range(f"quadratics: {name}", low, high, 1.0 if name == "conditioning" else 0.0)
    stream = _stream("quadratics", dimension, steps, noise)
    if centre is not None and centre.shape != (dimension,):
        raise ValueError(f"quadratics: centre has shape {tuple(centre.shape)}; expected ({dimension},)")
    if centre is not None and not centre.isfinite().all():
        raise ValueError("quadratics: centre must be finite")
    if not 0 <= spread < math.inf:
        raise ValueError(f"quadratics: spread must be 0 or more; got {spread}")

    def draw(number: int, generator: torch.Generator) -> Task:
        kappa, largest, factor = (_log_uniform(ends, (number, 1), generator) for ends in ranges.values())
        u = torch.rand(number, dimension, generator=generator, dtype=torch.float64)
        u[:, 0], u[:, 1:2] = 0.0, 1.0
        eigenvalues = factor * largest * kappa**-u  # (number, dimension)
        hessian = torch.diag_embed(eigenvalues)
        if rotated:
            axes = _rotations(number, dimension, generator)
            hessian = (axes * eigenvalues[:, None]) @ axes.mT
        optimum = spread * _normal((number, dimension), generator)
        optimum = optimum if centre is None else optimum + centre.to(optimum)
        return stream(Quadratic(torch.zeros_like(optimum), optimum, hessian), generator, dtype, factor)

    return draw


def curved_ravines(
    pairs: int = 5,
    *,
    steps: int,
    noise: float | Sequence[float] = 0.1,
    steepness: Range = (1.0, 10.0),
    dtype: torch.dtype = torch.float32,
) -> TaskSampler:
    """Return a sampler of curved ravines, each pair with its optimum on the other side of the bend.

    |centre| ~ U(.6, 1.2); the start is u = -sign(centre) U(.5, 1), v = u^2 + .3 N(0, 1).

    Args:
        pairs: of coordinates; the dimension is twice as many.
        steps, noise, dtype: as for :func:`quadratics`.
        steepness: range of the walls', log-uniform for each pair.

    Raises:
        ValueError: a number or range that makes no problem.

    >>> curved_ravines(2, steps=1)(3, torch.Generator().manual_seed(0)).query[0].start.shape
    torch.Size([3, 4])
    """
    _check_count("curved_ravines: pairs", pairs)
    _check_range("curved_ravines: steepness", *steepness, 0.0)
    stream = _stream("curved_ravines", 2 * pairs, steps, noise)

    def draw(number: int, generator: torch.Generator) -> Task:
        size = (number, pairs)
        sign = torch.where(_uniform((0.0, 1.0), size, generator) < 0.5, -1.0, 1.0)
        centre = sign * _uniform((0.6, 1.2), size, generator)
        u = -sign * _uniform((0.5, 1.0), size, generator)
        start = torch.cat([u, u * u + 0.3 * _normal(size, generator)], -1)
        return stream(CurvedRavine(start, centre, _log_uniform(steepness, size, generator)), generator, dtype)

    return draw


def networks(
    width: int = 8,
    points: int = 32,
    *,
    steps: int,
    noise: float | Sequence[float] = 0.0,
    dtype: torch.dtype = torch.float32,
) -> TaskSampler:
    """Return a sampler of regressions of one small network by another of the same shape, so that the optimum is zero.

    The inputs are U(-2, 2). Teacher and start are independent: weights in and biases N(0, 1), weights out
    N(0, 1 / width), last bias zero.

    Args:
        width: of the hidden layer; the dimension is 3 width + 1.
        points: of the regression.
        steps, noise, dtype: as for :func:`quadratics`.

    Raises:
        ValueError: a number that makes no problem.

    >>> networks(4, steps=1)(3, torch.Generator().manual_seed(0)).query[0].start.shape
    torch.Size([3, 13])
    """
    _check_count("networks: width", width)
    _check_count("networks: points", points)
    stream = _stream("networks", 3 * width + 1, steps, noise)
    spread = torch.cat([torch.ones(2 * width), torch.full((width,), width**-0.5), torch.zeros(1)]).double()

    def draw(number: int, generator: torch.Generator) -> Task:
        teacher, start = spread * _normal((2, number, 3 * width + 1), generator)
        inputs = _uniform((-2.0, 2.0), (number, points), generator)
        return stream(Network(start, inputs, _network(teacher, inputs)), generator, dtype)

    return draw


def law_fits(
    law: Law,
    mean: Tensor,
    covariance: Tensor,
    x: Tensor,
    *,
    sigma: float,
    steps: int,
    noise: float | Sequence[float] = 0.0,
    dtype: torch.dtype = torch.float64,
) -> TaskSampler:
    """Return a sampler of fits to few points, for :func:`law_loss`: truth and start are two specimens of a population.

    Args:
        law: the law that is fitted.
        mean: (parameters,) of the population, unconstrained, in the law's order.
        covariance: (parameters, parameters) of it.
        x: (points,) where every specimen is measured, in the law's unit.
        sigma: standard deviation of a measurement, in the unit of y.
        steps, noise, dtype: as for :func:`quadratics`; the noise is that of the gradient, beside the measurement's.

    Raises:
        ValueError: shapes that do not fit the law, a covariance that is not positive definite, a sigma that is not
            positive.

    >>> from scimeta.calibration.laws.law import Parameter
    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> fits = law_fits(decay, torch.zeros(1), torch.eye(1), torch.tensor([0.5, 1.0]), sigma=0.02, steps=1)
    >>> fits(3, torch.Generator().manual_seed(0)).query[0].y.shape
    torch.Size([3, 2])
    """
    size = len(law.names)
    mean, covariance, x = (torch.as_tensor(each, dtype=torch.float64) for each in (mean, covariance, x))
    if mean.shape != (size,) or covariance.shape != (size, size) or x.ndim != 1 or not len(x):
        raise ValueError(
            f"law_fits: law {law.name} has {size} parameters ({law.describe()}): mean ({size},), covariance "
            f"({size}, {size}) and x (points,) are expected; got {tuple(mean.shape)}, {tuple(covariance.shape)} and "
            f"{tuple(x.shape)}"
        )
    root, failed = torch.linalg.cholesky_ex(covariance)
    if failed or not (covariance.isfinite().all() and mean.isfinite().all() and x.isfinite().all()):
        raise ValueError("law_fits: mean and x must be finite and covariance positive definite")
    if not 0 < sigma < math.inf:
        raise ValueError(f"law_fits: sigma must be positive; got {sigma}")
    stream = _stream("law_fits", size, steps, noise)

    def draw(number: int, generator: torch.Generator) -> Task:
        truth, start = mean + _normal((2, number, size), generator) @ root.mT
        points = x.expand(number, -1)
        y = law.curve(dict(zip(law.names, truth.unbind(-1), strict=True)), points)
        y = y + sigma * _normal(y.shape, generator)
        return stream(LawFit(start, points, y, torch.full_like(y, 1 / sigma)), generator, dtype)

    return draw


def _stream(where: str, dimension: int, steps: int, noise: float | Sequence[float]) -> Callable[..., Task]:
    """Return (problems, generator, dtype, factor of the noise) -> a task with the noise of every step."""
    _check_count(f"{where}: steps", steps)
    levels = torch.as_tensor(noise, dtype=torch.float64).reshape(-1)
    if not (len(levels) and (levels >= 0).all() and levels.isfinite().all()):
        raise ValueError(f"{where}: noise must be a number of 0 or more, or several of them; got {noise!r}")

    def task(problems: tuple, generator: torch.Generator, dtype: torch.dtype, factor: Tensor | float = 1.0) -> Task:
        number = len(problems[0])
        # Drawn whatever the level, so that families that differ in it alone hold the same problems.
        level = levels[torch.randint(len(levels), (number, 1), generator=generator)] * factor
        each = level[:, None] * _normal((number, steps, dimension), generator)
        held = type(problems)(*(part.to(dtype) for part in problems))
        return Task(Stream(held, each.to(dtype)), (held, torch.zeros(number, dimension, dtype=dtype)))

    return task


def _network(weights: Tensor, inputs: Tensor) -> Tensor:
    """Return (..., points) outputs at inputs (..., points) of networks with weights (..., 3 width + 1)."""
    into, bias, out = weights[..., :-1].unflatten(-1, (3, -1)).unbind(-2)
    hidden = torch.tanh(inputs[..., None] * into[..., None, :] + bias[..., None, :])  # (..., points, width)
    return (hidden @ out[..., None])[..., 0] + weights[..., -1:]


def _rotations(number: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return (number, dimension, dimension) orthogonal matrices, uniform among all."""
    q, r = torch.linalg.qr(_normal((number, dimension, dimension), generator))
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]


def _normal(size: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float64)


def _uniform(ends: Range, size: Sequence[int], generator: torch.Generator) -> Tensor:
    low, high = ends
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def _log_uniform(ends: Range, size: Sequence[int], generator: torch.Generator) -> Tensor:
    return _uniform((math.log(ends[0]), math.log(ends[1])), size, generator).exp()


def _check_count(what: str, count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{what} must be a whole number, 1 or more; got {count!r}")


def _check_range(what: str, low: float, high: float, least: float) -> None:
    if not least <= low <= high < math.inf or low == 0:
        raise ValueError(f"{what} must be (low, high) with {least:g} <= low <= high, both positive; got {(low, high)}")

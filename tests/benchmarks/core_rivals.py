"""What others need for the same meta-step: each rival takes a problem and returns its step and its meta-gradient.

All compute the second-order MAML gradient of :mod:`core_problems` and one Adam update. Call
:func:`core_problems.limit_threads` before this module is imported. A rival that is not there returns one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from core_problems import FILTERS, META_LR, NORM_EPS, WAYS, Problem
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None

Tasks = list[tuple[Tensor, Tensor, Tensor, Tensor]]  # (x, y, x of the query, y of the query) of each task
OutputLoss = Callable[[Tensor, Tensor], Tensor]  # (output, y) -> scalar
CHUNK = {"sine": 32, "conv4": 1}  # tasks that JAX computes at once where this is fastest: what fits the cache


class Rival(NamedTuple):
    """One way to compute a meta-step.

    Attributes:
        name: as printed.
        step: one whole meta-step, meta-gradient and Adam; returns when done. Its parameters move from call to call.
        gradient: the meta-gradient at the problem's own parameters, same names and layouts.
    """

    name: str
    step: Callable[[], None]
    gradient: Callable[[], dict[str, ndarray]]


def plain_rival(problem: Problem) -> Rival:
    """A Python loop over tasks with ``autograd.grad``, every formula written out: in float64 the truth."""
    tasks = tensors(problem)
    loss = {"sine": plain_sine_loss, "conv4": plain_conv4_loss}[problem.kind]

    def meta_gradient(params: dict[str, Tensor]) -> list[Tensor]:
        total = [torch.zeros_like(value) for value in params.values()]
        for x, y, x_query, y_query in tasks:
            fast = params
            for _ in range(problem.steps):
                grads = torch.autograd.grad(loss(fast, x, y), list(fast.values()), create_graph=True)
                fast = {name: value - problem.lr * g for (name, value), g in zip(fast.items(), grads, strict=True)}
            grads = torch.autograd.grad(loss(fast, x_query, y_query), list(params.values()))
            total = [a + b for a, b in zip(total, grads, strict=True)]
        return [value / len(tasks) for value in total]

    params = {name: torch.tensor(value, requires_grad=True) for name, value in problem.params.items()}
    optimizer = torch.optim.Adam(params.values(), META_LR)

    def step() -> None:
        for value, grad in zip(params.values(), meta_gradient(params), strict=True):
            value.grad = grad
        optimizer.step()

    def gradient() -> dict[str, ndarray]:
        start = {name: torch.tensor(value, requires_grad=True) for name, value in problem.params.items()}
        return {name: grad.numpy() for name, grad in zip(start, meta_gradient(start), strict=True)}

    return Rival("torch, plain loop", step, gradient)


def higher_rival(problem: Problem) -> Rival | str:
    """Return ``higher.innerloop_ctx`` in a loop over tasks, as in its own MAML example."""
    try:
        import higher
    except ImportError as error:
        return f"higher is left out: {error}; pip install higher --no-deps."

    def adapted(net: nn.Module, tasks: Tasks, loss: OutputLoss) -> Iterator[nn.Module]:
        inner = torch.optim.SGD(net.parameters(), problem.lr)
        for x, y, _, _ in tasks:
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, differentiable):
                for _ in range(problem.steps):
                    differentiable.step(loss(fast(x), y))
                yield fast

    return module_rival("higher", problem, adapted)


def learn2learn_rival(problem: Problem) -> Rival | str:
    """Return ``learn2learn.algorithms.MAML`` with clone and adapt in a loop over tasks, as in its own examples."""
    try:
        from learn2learn.algorithms import MAML
    except ImportError as error:
        return f"learn2learn is left out: {error}; the benchmark's docstring says how to install it."

    def adapted(net: nn.Module, tasks: Tasks, loss: OutputLoss) -> Iterator[nn.Module]:
        maml = MAML(net, lr=problem.lr)
        for x, y, _, _ in tasks:
            learner = maml.clone()
            for _ in range(problem.steps):
                learner.adapt(loss(learner(x), y))
            yield learner

    return module_rival("learn2learn", problem, adapted)


def jax_rival(problem: Problem, chunk: int | None = None) -> Rival | str:
    """Return vmap + grad under one jit, Adam inside, with the state donated.

    Args:
        problem: what to compute.
        chunk: tasks under one vmap; their gradients are summed by a scan. None: the fastest on one thread, which for
            conv4 is one task at a time; the number of tasks: one vmap over all.

    Convolutions are im2col from nine strided slices, channels last, and one matrix product. With one vmap over 16 tasks
    and one step, ``lax.conv_general_dilated_patches`` took 4.7 times as long, ``lax.conv_general_dilated`` 18 times.
    """
    if jax is None:
        return "JAX is left out: it is not installed; pip install jax."
    tasks = len(problem.support[0])
    at_once = max(d for d in range(1, min(chunk or CHUNK[problem.kind], tasks) + 1) if tasks % d == 0)
    double = next(iter(problem.params.values())).dtype == np.float64
    precision = partial(jax.enable_x64, True) if double else nullcontext
    meta_gradient = jax_meta_gradient(problem)
    with precision():
        data = tuple(jnp.asarray(a.reshape(-1, at_once, *a.shape[1:])) for a in jax_data(problem))
        start = {name: jnp.asarray(to_jax(value)) for name, value in problem.params.items()}
        zeros = jax.tree.map(jnp.zeros_like, start)
        state = jax.tree.map(jnp.copy, (start, zeros, zeros, jnp.zeros((), start["0.bias"].dtype)))
        compiled = jax.jit(lambda state, data: jax_adam(state, meta_gradient(state[0], data)), donate_argnums=0)

    def step() -> None:
        nonlocal state
        with precision():
            state = jax.block_until_ready(compiled(state, data))

    def gradient() -> dict[str, ndarray]:
        with precision():
            found = jax.jit(meta_gradient)(start, data)
        return {name: from_jax(np.asarray(grad), problem.params[name].shape) for name, grad in found.items()}

    return Rival(f"JAX, {at_once} of {tasks} tasks at once", step, gradient)


def tensors(problem: Problem) -> Tasks:
    """Return (x, y, x of the query, y of the query) of each task."""
    arrays = [torch.from_numpy(a) for a in (*problem.support, *problem.query)]
    return list(zip(*arrays, strict=True))


def plain_sine_loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error of one task."""
    for layer in ("0", "2"):
        x = (x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]).relu()
    x = x @ params["4.weight"].T + params["4.bias"]
    return ((x - y) ** 2).mean()


def plain_conv4_loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of one task."""
    for layer in (0, 3, 6, 9):
        x = F.conv2d(x, params[f"{layer}.weight"], params[f"{layer}.bias"], stride=2, padding=1)
        x = x - x.mean((0, 2, 3), keepdim=True)
        x = x / ((x * x).mean((0, 2, 3), keepdim=True) + NORM_EPS).sqrt()
        x = (x * params[f"{layer + 1}.weight"][:, None, None] + params[f"{layer + 1}.bias"][:, None, None]).relu()
    scores = x.mean((2, 3)) @ params["13.weight"].T + params["13.bias"]
    return -scores.log_softmax(1)[torch.arange(len(y)), y].mean()


def module(problem: Problem) -> nn.Sequential:
    """Return the network as a module that holds the problem's parameters."""
    if problem.kind == "sine":
        sizes = [value.shape for name, value in problem.params.items() if name.endswith("weight")]
        layers = [layer for outputs, inputs in sizes for layer in (nn.Linear(inputs, outputs), nn.ReLU())][:-1]
    else:
        layers = []
        for inputs in (1, FILTERS, FILTERS, FILTERS):
            norm = nn.BatchNorm2d(FILTERS, eps=NORM_EPS, track_running_stats=False)
            layers += [nn.Conv2d(inputs, FILTERS, 3, stride=2, padding=1), norm, nn.ReLU()]
        layers += [Mean(), nn.Linear(FILTERS, WAYS)]
    net = nn.Sequential(*layers)
    state = {name: torch.tensor(value) for name, value in problem.params.items()}
    net.to(state["0.bias"].dtype).load_state_dict(state)
    return net


class Mean(nn.Module):
    """The mean over the two spatial axes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def module_rival(
    name: str, problem: Problem, adapted: Callable[[nn.Module, Tasks, OutputLoss], Iterator[nn.Module]]
) -> Rival:
    """Return a rival from the function that yields a module as adapted to each task, differentiably."""
    net, tasks = module(problem), tensors(problem)
    loss: OutputLoss = {"sine": F.mse_loss, "conv4": F.cross_entropy}[problem.kind]
    optimizer = torch.optim.Adam(net.parameters(), META_LR)

    def accumulate(net: nn.Module) -> None:
        for fast, (_, _, x_query, y_query) in zip(adapted(net, tasks, loss), tasks, strict=True):
            (loss(fast(x_query), y_query) / len(tasks)).backward()

    def step() -> None:
        optimizer.zero_grad()
        accumulate(net)
        optimizer.step()

    def gradient() -> dict[str, ndarray]:
        start = module(problem)
        accumulate(start)
        return {name: value.grad.numpy() for name, value in start.named_parameters()}

    return Rival(name, step, gradient)


def to_jax(value: ndarray) -> ndarray:
    """Return linear weights as (in, out), convolutions as (9 in, out), the place in the 3 x 3 window first."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value.T


def from_jax(value: ndarray, shape: tuple[int, ...]) -> ndarray:
    """Return an array of :func:`to_jax` in PyTorch's layout of that shape."""
    if len(shape) == 4:
        return value.reshape(3, 3, shape[1], shape[0]).transpose(3, 2, 0, 1)
    return value.T


def jax_data(problem: Problem) -> list[ndarray]:
    """Return (x, y, x of the query, y of the query) with channels last and 32-bit labels."""
    arrays = (*problem.support, *problem.query)
    if problem.kind == "sine":
        return list(arrays)
    return [np.moveaxis(a, 2, -1) if a.ndim == 5 else a.astype(np.int32) for a in arrays]


def jax_meta_gradient(problem: Problem) -> Callable[[dict, tuple], dict]:
    """Return (params, data with two leading axes: chunks, tasks in a chunk) -> mean gradient over all tasks."""
    loss = {"sine": jax_sine_loss, "conv4": jax_conv4_loss}[problem.kind]

    def query_loss(params: dict, x: jax.Array, y: jax.Array, x_query: jax.Array, y_query: jax.Array) -> jax.Array:
        for _ in range(problem.steps):
            grads = jax.grad(loss)(params, x, y)
            params = {name: value - problem.lr * grads[name] for name, value in params.items()}
        return loss(params, x_query, y_query)

    def total(params: dict, chunk: tuple) -> jax.Array:
        if len(chunk[0]) == 1:  # no batch axis: XLA's matrix product without one is faster
            return query_loss(params, *(a[0] for a in chunk))
        return jax.vmap(query_loss, (None, 0, 0, 0, 0))(params, *chunk).sum()

    def meta_gradient(params: dict, data: tuple) -> dict:
        chunks, at_once = data[0].shape[:2]
        if chunks == 1:
            found = jax.grad(total)(params, jax.tree.map(lambda a: a[0], data))
        else:
            zeros = jax.tree.map(jnp.zeros_like, params)
            found, _ = jax.lax.scan(
                lambda found, chunk: (jax.tree.map(jnp.add, found, jax.grad(total)(params, chunk)), None), zeros, data
            )
        return jax.tree.map(lambda g: g / (chunks * at_once), found)

    return meta_gradient


def jax_adam(state: tuple, grads: dict) -> tuple:
    """Return (params, mean, square, count) after one Adam update with PyTorch's defaults."""
    params, mean, square, count = state
    count = count + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, grads)
    rate, scale = META_LR / (1 - 0.9**count), 1 / (1 - 0.999**count)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v * scale) + 1e-8), params, mean, square)
    return params, mean, square, count


def jax_sine_loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean squared error of one task."""
    for layer in ("0", "2"):
        x = jax.nn.relu(x @ params[f"{layer}.weight"] + params[f"{layer}.bias"])
    return ((x @ params["4.weight"] + params["4.bias"] - y) ** 2).mean()


def jax_conv4_loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the cross-entropy of one task; x (images, side, side, 1)."""
    for layer in (0, 3, 6, 9):
        windows = im2col(x)
        x = windows.reshape(-1, windows.shape[-1]) @ params[f"{layer}.weight"] + params[f"{layer}.bias"]
        x = x.reshape(*windows.shape[:-1], FILTERS)
        x = x - x.mean((0, 1, 2))
        x = x * (params[f"{layer + 1}.weight"] * jax.lax.rsqrt((x * x).mean((0, 1, 2)) + NORM_EPS))
        x = jax.nn.relu(x + params[f"{layer + 1}.bias"])
    scores = x.mean((1, 2)) @ params["13.weight"] + params["13.bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], 1).mean()


def im2col(x: jax.Array) -> jax.Array:
    """Return the 3 x 3 windows at stride 2 of (images, side, side, channels): (images, half, half, 9 channels)."""
    last = x.shape[1] + x.shape[1] % 2 - 1
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, i : i + last : 2, j : j + last : 2] for i in range(3) for j in range(3)], -1)

"""The problems of the core's benchmark, in NumPy: no framework is loaded before the threads are limited.

One meta-step is the second-order MAML gradient (mean over tasks of the query loss after ``steps`` SGD steps on the
support loss) and one Adam update of the start at rate ``META_LR``. The data are made, not read: only speed and the
gradient are compared here, never accuracy.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy import ndarray

META_LR = 1e-3
WIDTH, POINTS = 40, 10  # of the sine network; points in a support or query set
FILTERS, WAYS, SIDE = 64, 5, 28  # of conv4; images have one channel
NORM_EPS = 1e-5


class Problem(NamedTuple):
    """One batch of tasks and the network that all tasks start from.

    Attributes:
        name: as printed, "sine 25 tasks, 5 steps".
        kind: "sine" (mean squared error, MLP 1-40-40-1) or "conv4" (cross-entropy, four convolutions).
        steps: inner SGD steps.
        lr: rate of the inner steps.
        params: name -> array in PyTorch's layout, named as in ``nn.Sequential``; the order is that of the layers.
        support: x and y with a leading task axis, (tasks, points, ...).
        query: as the support.
    """

    name: str
    kind: str
    steps: int
    lr: float
    params: dict[str, ndarray]
    support: tuple[ndarray, ndarray]
    query: tuple[ndarray, ndarray]


def sine(tasks: int, steps: int, dtype: type[np.floating] = np.float32, seed: int = 0, width: int = WIDTH) -> Problem:
    """Return sinusoids of amplitude U(.1, 5) and phase U(0, pi) at 10 + 10 points of U(-5, 5), x and y (tasks, 10, 1).

    The start is He's for inputs of mean square 25/3; for a mean square of 1 the inner steps would diverge at rate .01.

    Reference: Finn, Abbeel, Levine, Model-agnostic meta-learning, ICML (2017), section 5.1.
    """
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    x = rng.uniform(-5, 5, (tasks, 2 * POINTS, 1))
    y = amplitude * np.sin(x + phase)
    sizes = (1, width, width, 1)
    params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        params[f"{2 * layer}.weight"] = he(rng, (outputs, inputs), inputs if layer else 25 / 3)
        params[f"{2 * layer}.bias"] = np.zeros(outputs)
    support, query = (
        (x[:, half].astype(dtype), y[:, half].astype(dtype)) for half in (slice(POINTS), slice(POINTS, None))
    )
    return Problem(named("sine", tasks, steps), "sine", steps, 0.01, cast(params, dtype), support, query)


def conv4(tasks: int, steps: int, dtype: type[np.floating] = np.float32, seed: int = 0) -> Problem:
    """Return 5-way 1-shot tasks of 5 + 5 images: x (tasks, 5, 1, 28, 28), y (tasks, 5) int64.

    A class is a picture of noise; its images are that picture with half as much noise added.

    Reference: Vinyals et al., Matching networks, NeurIPS (2016): the network, here with strides in place of pooling.
    """
    rng = np.random.default_rng(seed)
    picture = rng.standard_normal((tasks, WAYS, 1, SIDE, SIDE))
    labels = np.tile(np.arange(WAYS), (tasks, 1))
    support, query = (((picture + 0.5 * rng.standard_normal(picture.shape)).astype(dtype), labels) for _ in range(2))
    params = {}
    for block in range(4):
        inputs = FILTERS if block else 1
        params[f"{3 * block}.weight"] = he(rng, (FILTERS, inputs, 3, 3), 9 * inputs)
        params[f"{3 * block}.bias"] = np.zeros(FILTERS)
        params[f"{3 * block + 1}.weight"] = np.ones(FILTERS)
        params[f"{3 * block + 1}.bias"] = np.zeros(FILTERS)
    params["13.weight"] = he(rng, (WAYS, FILTERS), FILTERS)
    params["13.bias"] = np.zeros(WAYS)
    return Problem(named("conv4", tasks, steps), "conv4", steps, 0.4, cast(params, dtype), support, query)


def limit_threads(count: int) -> None:
    """Hold this process to ``count`` processors; to be called before JAX or PyTorch is imported.

    The affinity is what binds: JAX has no setting of its own for a running thread beside its pool, whose size is NPROC
    or the number of processors that the process may use. OMP_NUM_THREADS is PyTorch's.
    """
    loaded = {"jax", "torch"} & set(sys.modules)
    if loaded:
        raise RuntimeError(f"limit_threads: {' and '.join(sorted(loaded))} already imported; call it before")
    if hasattr(os, "sched_setaffinity"):  # Linux
        allowed = sorted(os.sched_getaffinity(0))
        if not 1 <= count <= len(allowed):
            raise ValueError(f"limit_threads: count is {count}, this process may use 1 to {len(allowed)} processors")
        os.sched_setaffinity(0, allowed[-count:])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        os.environ[name] = str(count)


def he(rng: np.random.Generator, shape: tuple[int, ...], inputs: float) -> ndarray:
    """Return normal weights of variance 2 / inputs, the sum of the mean squares of what a unit receives."""
    return rng.standard_normal(shape) * np.sqrt(2 / inputs)


def cast(params: dict[str, ndarray], dtype: type[np.floating]) -> dict[str, ndarray]:
    """Return the same parameters in ``dtype``: drawn in float64, so that both precisions see the same problem."""
    return {name: value.astype(dtype) for name, value in params.items()}


def named(kind: str, tasks: int, steps: int) -> str:
    """Return the problem's name as printed."""
    return f"{kind} {tasks} tasks, {steps} step{'s' if steps > 1 else ''}"

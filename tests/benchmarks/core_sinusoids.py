"""How well the learners do on sinusoids: mean squared error of 600 new tasks after 1, 5 and 10 inner steps.

MLP 1-40-40-1, ReLU, He start; one inner step of rate .01 in training, with as many support and query points as shots;
outer Adam at 1e-3 throughout. The means after 5 and 10 steps are those of a few waves on which steps of .01 overshoot:
they move by tens of per cent between seeds and from one outer step to the next.
"""

from __future__ import annotations

import math
import os
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from scimeta import Task, evaluate, fomaml, functional, maml, meta_sgd, meta_train
from scimeta.core.tasks import Params, TaskSampler
from scimeta.models import networks

SMOKE = "SCIMETA_SMOKE" in os.environ
STEPS = 200 if SMOKE else 70_000
TASKS, QUERIES = 25, 100  # of an outer step; query points that judge
JUDGED = 20 if SMOKE else 600  # tasks
ASKED = {
    ("MAML", 5): (0.548, 0.390, 0.326),
    ("MAML", 10): (0.342, 0.139, 0.111),
    ("MAML", 20): (0.183, 0.046, 0.033),
    ("Meta-SGD", 10): (0.221, None, None),
    ("FOMAML", 10): (0.375, 0.121, 0.094),
}
MAKERS = {"MAML": maml, "Meta-SGD": meta_sgd, "FOMAML": fomaml}


def sinusoids(shots: int, queries: int) -> TaskSampler:
    """Return a sampler of y = A sin(x + phase): amplitude U(.1, 5), phase U(0, pi), x ~ U(-5, 5)."""

    def draw(number: int, generator: torch.Generator) -> Task:
        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        amplitude, phase = uniform(0.1, 5.0, number, 1, 1), uniform(0.0, math.pi, number, 1, 1)
        x = uniform(-5.0, 5.0, number, shots + queries, 1)
        y = amplitude * torch.sin(x + phase)
        return Task((x[:, :shots], y[:, :shots]), (x[:, shots:], y[:, shots:]))

    return draw


def main() -> None:
    """Print errors, beside those asked for, and the CPU time of meta-training."""
    print(f"\nSinusoids: error of {JUDGED} new tasks after {STEPS} outer steps of {TASKS} tasks (asked for)")
    print(f"    {'':<18} {'before':>8} {'1 step':>15} {'5 steps':>15} {'10 steps':>15} {'CPU s':>7}")
    for (name, shots), asked in ASKED.items():
        params, apply = functional(networks.mlp([1, 40, 40, 1], generator=torch.Generator().manual_seed(0)))

        def loss(params: Params, data: tuple[Tensor, Tensor], apply: object = apply) -> Tensor:
            return F.mse_loss(apply(params, data[0]), data[1])

        start = time.process_time()
        trained = meta_train(
            MAKERS[name](loss, params, lr=0.01),
            sinusoids(shots, shots),
            steps=STEPS,
            tasks_per_step=TASKS,
            generator=torch.Generator().manual_seed(1),
        )
        spent = time.process_time() - start
        errors = evaluate(trained, sinusoids(shots, QUERIES), n=JUDGED, steps=10).mean
        cells = [f"{errors[k]:.3f}" + (f" ({a})" if a else "") for k, a in zip((1, 5, 10), asked, strict=True)]
        print(f"    {name:<9} {shots:>2} shots {errors[0]:>8.3f} " + " ".join(f"{c:>15}" for c in cells), end="")
        print(f" {spent:>7.0f}", flush=True)

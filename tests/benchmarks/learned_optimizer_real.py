"""A learned rule as the README uses it, on five small real tasks: which part of its steps to take, guarded and not.

The rule is the README's, trained on ravines for 20 and for 400 outer steps. Each cell is the final loss over the first,
the median of five random starts of the model; behind a "!" stand the starts that ended above where they began, of five.
The last column is the geometric mean over all tasks and starts, each counted between 1e-3 and 1e6, so that no task on
which the loss can go to zero, and none that is lost, outweighs the others.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn

from scimeta import Rule, learned_optimizer, meta_train
from scimeta.core.controller_rule import controller
from scimeta.domains import landscapes
from scimeta.optim import LearnedOptimizer, rule_of

SMOKE = "SCIMETA_SMOKE" in os.environ
OUTER_STEPS = (3,) if SMOKE else (20, 400)
STEPS, STARTS = (20, 1) if SMOKE else (200, 5)
PARTS = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the rule's own step
SOLVED, LOST = 1e-3, 1e6

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class RealTask(NamedTuple):
    """A table of scikit-learn's, all of it one batch, and a model for it."""

    x: Tensor
    y: Tensor
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]


def real_tasks() -> dict[str, RealTask]:
    """Return linear and logistic regression, and networks with a hidden layer; columns standardised."""
    diabetes, cancer, wine = datasets.load_diabetes(), datasets.load_breast_cancer(), datasets.load_wine()
    digits, linnerud = datasets.load_digits(), datasets.load_linnerud()
    labels = torch.tensor(cancer.target, dtype=torch.float32)[:, None]
    return {
        "diabetes, line": RealTask(
            standard(diabetes.data), standard(diabetes.target[:, None]), lambda: nn.Linear(10, 1), F.mse_loss
        ),
        "cancer, logistic": RealTask(
            standard(cancer.data), labels, lambda: nn.Linear(30, 1), F.binary_cross_entropy_with_logits
        ),
        "wine, softmax": RealTask(
            standard(wine.data), torch.tensor(wine.target), lambda: nn.Linear(13, 3), F.cross_entropy
        ),
        "digits, network": RealTask(
            standard(digits.data), torch.tensor(digits.target), lambda: network(64, 32, 10), F.cross_entropy
        ),
        "linnerud, network": RealTask(
            standard(linnerud.data), standard(linnerud.target), lambda: network(3, 8, 3), F.mse_loss
        ),
    }


def standard(table: np.ndarray) -> Tensor:
    """Return the columns with mean 0 and standard deviation 1 (constant ones: 0)."""
    spread = table.std(0)
    return torch.tensor((table - table.mean(0)) / np.where(spread > 0, spread, 1.0), dtype=torch.float32)


def network(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))


def readme_rule(outer_steps: int) -> Rule:
    """Return the rule of the README after so many outer steps."""
    learner = learned_optimizer(
        landscapes.loss,
        landscapes.origin(10),
        rule=controller(),
        steps=20,
        burn_in=80,
        query_loss=landscapes.log_reduction,
        rescale=30.0,
        clip=1.0,
    )
    ravines = landscapes.quadratics(10, steps=100, noise=(0.0, 0.1))
    generator = torch.Generator().manual_seed(0)
    trained = meta_train(
        learner, ravines, steps=outer_steps, lr=3e-3, clip_norm=1.0, learn=("rule.*",), generator=generator
    )
    return rule_of(trained)


def descend(task: RealTask, make: Make, seed: int, steps: int = STEPS) -> list[float]:
    """Return the loss before each step and at the end; what cannot go on ends with infinity."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(model(task.x), task.y)
        loss.backward()
        return loss

    losses = []
    try:
        for _ in range(steps):
            losses.append(float(optimizer.step(closure).detach()))
    except FloatingPointError:
        return [*losses, math.inf]
    return [*losses, float(closure().detach())]


def print_row(name: str, make: Make, tasks: dict[str, RealTask]) -> None:
    """Print how one optimiser ends on all tasks."""
    cells, logs = [], []
    for task in tasks.values():
        paths = [descend(task, make, seed) for seed in range(STARTS)]
        ratios = [min(LOST, path[-1] / path[0]) if path[-1] < math.inf else LOST for path in paths]
        worse = sum(ratio > 1 for ratio in ratios)
        cells.append(f"{median(ratios):.2g}" + (f" !{worse}" if worse else ""))
        logs += [math.log10(max(ratio, SOLVED)) for ratio in ratios]
    mean = 10 ** (sum(logs) / len(logs))
    print(f"    {name:<26}" + "".join(f"{text:>19}" for text in cells) + f"{mean:>12.2g}", flush=True)


def main() -> None:
    """Print a row for each part of the rule's steps, with the guard and without, and Adam's."""
    tasks = real_tasks()
    print(f"\nFive small real tasks, {STEPS} steps of all data: final loss over the first")
    print(f"    {'':<26}" + "".join(f"{name:>19}" for name in tasks) + f"{'all':>12}")
    for lr in (0.01, 0.03, 0.1):
        print_row(f"Adam, lr {lr:g}", functools.partial(torch.optim.Adam, lr=lr), tasks)
    for outer_steps in OUTER_STEPS:
        rule = readme_rule(outer_steps)
        print(f"  the README's rule after {outer_steps} outer steps")
        for lr in PARTS:
            print_row(f"guarded, lr {lr:g}", functools.partial(LearnedOptimizer, rule=rule, lr=lr), tasks)
        for lr in PARTS:
            free = functools.partial(LearnedOptimizer, rule=rule, lr=lr, guard=None)
            print_row(f"guard=None, lr {lr:g}", free, tasks)


if __name__ == "__main__":
    main()

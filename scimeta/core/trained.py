"""What a meta-learner has learned, and how well it adapts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.checkpoint import save_meta
from scimeta.core.door import check_batch
from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Loss, Params, Task, TaskSampler, count_tasks, over_tasks, select_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHUNK = 256  # tasks evaluated at once
_SEED = 7_919_314_159


@dataclass(frozen=True)
class Trained:
    """A meta-learner after its outer loop; prints as a table.

    Attributes:
        learner: with the best (or, without validation, the last) initialisation and rule.
        history: one row for each outer step: step (1 for the first), loss (mean query loss of its tasks after
            adaptation, before the update), validation (the same on the validation tasks after the update, nan between).
        best_step: the step after which ``learner.meta`` was taken.
    """

    learner: MetaLearner
    history: pd.DataFrame
    best_step: int

    @property
    def meta(self) -> Meta:
        """The learned initialisation and rule parameters."""
        return self.learner.meta

    def adapt(self, support: Data, steps: int | None = None) -> Params:
        """Return one task's adapted parameters, without gradient.

        Args:
            support: the task's data, without a task axis.
            steps: inner steps; None for as many as trained.
        """
        with torch.no_grad():
            return {n: p.detach().clone() for n, p in self.learner.adapt(self.meta, support, steps).items()}

    def save(self, path: str | Path) -> Path:
        """Return ``path`` after the learned parameters have been written to it; ``load_meta`` reads them."""
        return save_meta(self.learner, path)

    def __str__(self) -> str:
        late = self.history["loss"].tail(max(1, len(self.history) // 20))
        title = f"{self.learner.name}, {self.learner.adapt.steps} inner steps, after {len(self.history)} outer steps"
        if self.history.empty:
            return title
        lines = [
            title,
            f"  query loss, first step       {self.history['loss'].iloc[0]:.4g}",
            f"  query loss, mean of last {len(late):<4} {late.mean():.4g}",
        ]
        if self.history["validation"].notna().any():
            best = self.history["validation"].min()
            lines.append(f"  best validation loss         {best:.4g} (step {self.best_step}, kept)")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the query loss over the outer steps, and the validation losses where there are any."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 3.6), layout="constrained")[1]
        step, loss = self.history["step"], self.history["loss"]
        window = max(1, len(loss) // 50)
        ax.plot(step, loss, color="0.8", lw=0.8, label="each step")
        smooth = loss.rolling(window, center=True, min_periods=1).median()
        ax.plot(step, smooth, color="C0", lw=1.8, label=f"median of {window}")
        judged = self.history.dropna(subset="validation")
        if len(judged):
            ax.plot(judged["step"], judged["validation"], "o-", color="C1", ms=3, lw=1, label="validation")
            ax.axvline(self.best_step, color="C1", lw=0.8, ls=":", label="kept")
        if (loss > 0).all():
            ax.set_yscale("log")
        ax.set(xlabel="outer step", ylabel="query loss", title=self.learner.name)
        ax.legend(frameon=False)
        return ax


@dataclass(frozen=True)
class Evaluation:
    """Query losses of many tasks, from the start to the last inner step; prints as a table.

    Attributes:
        name: the algorithm.
        losses: (steps + 1, tasks); row 0 before adaptation.
    """

    name: str
    losses: Tensor

    @property
    def mean(self) -> Tensor:
        """(steps + 1,) means over the tasks."""
        return self.losses.mean(1)

    @property
    def margin(self) -> Tensor:
        """(steps + 1,) half width of the 95 % interval of the mean, 1.96 standard errors."""
        tasks = self.losses.shape[1]
        if tasks < 2:
            return torch.full_like(self.mean, torch.nan)
        return 1.96 * self.losses.std(1) / math.sqrt(tasks)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with columns step, mean, margin, median."""
        numbers = {"mean": self.mean, "margin": self.margin, "median": self.losses.median(1).values}
        return pd.DataFrame({"step": range(len(self.losses)), **{k: v.cpu().numpy() for k, v in numbers.items()}})

    def __str__(self) -> str:
        rows = [
            f"{row.step:>5}  {row.mean:10.4g} +- {row.margin:<9.2g} {row.median:10.4g}"
            for row in self.to_frame().itertuples()
        ]
        head = f"{self.name}: query loss of {self.losses.shape[1]} tasks (mean +- 95 %)"
        return "\n".join([head, f"{'step':>5}  {'mean':>10}    {'':<9} {'median':>10}", *rows])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the mean query loss over the inner steps and its 95 % interval."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(5, 3.6), layout="constrained")[1]
        table = self.to_frame()
        ax.errorbar(table["step"], table["mean"], table["margin"], marker="o", ms=4, capsize=2, label=self.name)
        ax.set(xlabel="inner steps", ylabel="query loss")
        ax.legend(frameon=False)
        return ax


def evaluate(
    learner: MetaLearner | Trained,
    tasks: TaskSampler | Task,
    *,
    n: int = 100,
    steps: int | None = None,
    metric: Loss | None = None,
    generator: torch.Generator | None = None,
) -> Evaluation:
    """Return the query loss of new tasks before adaptation and after every inner step.

    Args:
        learner: a meta-learner, or what ``meta_train`` returned.
        tasks: a sampler, or a batch of tasks.
        n: tasks to draw from the sampler.
        steps: inner steps; None for as many as trained.
        metric: of one task's adapted parameters and query, in place of the query loss (an error rate, an RMSE).
        generator: for the sampler; None for one with a seed of its own, so that no training batch comes again.

    Raises:
        TypeError, ValueError: what the door finds wrong with the tasks.
    """
    learner = learner.learner if isinstance(learner, Trained) else learner
    if steps is not None and (not isinstance(steps, int) or steps < 0):
        raise ValueError(f"evaluate: steps is 0 or more, or None for as many as trained; got {steps!r}")
    if callable(tasks):
        tasks = tasks(n, generator if generator is not None else torch.Generator().manual_seed(_SEED))
    elif not isinstance(tasks, tuple):
        raise TypeError(f"evaluate: tasks is a sampler or a Task; got {type(tasks).__name__}")
    batch = check_batch(learner, _moved(tasks, learner.meta), "evaluate")
    losses = path_losses(learner, metric or learner.query_loss, steps)
    parts = [  # not recorded: for one look, many steps are sooner run than written down
        losses(learner.meta, select_tasks(batch, slice(first, first + _CHUNK)))
        for first in range(0, count_tasks(batch), _CHUNK)
    ]
    return Evaluation(learner.name, torch.cat(parts, 1).detach())


def path_losses(learner: MetaLearner, metric: Loss, steps: int | None = None) -> Callable[[Meta, Task], Tensor]:
    """Return (meta, batch of tasks) -> (steps + 1, tasks) metric of the queries."""

    def of_one(meta: Meta, support: Data, query: Data) -> Tensor:
        return torch.stack([_number(metric(params, query)) for params in learner.adapt.path(meta, support, steps)])

    def of_batch(meta: Meta, task: Task) -> Tensor:
        return over_tasks(of_one, (None, 0, 0))(meta, task.support, task.query).mT

    return of_batch


def _number(value: Tensor) -> Tensor:
    """Return a metric's value as a floating-point number, or raise TypeError if it is none."""
    if not isinstance(value, Tensor) or value.shape != ():
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"evaluate: a metric returns one number for one task; got {got}: end it with .mean() or .sum()")
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def _moved(batch: Task, meta: Meta) -> Task:
    device = next(iter(meta.init.values())).device
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)

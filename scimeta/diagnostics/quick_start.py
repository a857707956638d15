"""Bias and variance of the quick start, measured by adapting to many support sets of the same tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.door import check_batch
from scimeta.core.inner_loop import Residuals
from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta
from scimeta.core.tasks import Data, Params, Task, count_tasks, over_tasks, select_tasks
from scimeta.core.trained import Trained

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SEED = 4_116_023  # tasks are often drawn with seed 0, and must not share their random numbers with the support sets

SupportSampler = Callable[[int, torch.Generator], Data]
"""Shots, generator -> a fresh support set for each of the SAME tasks, with a leading task axis."""


@dataclass(frozen=True)
class QuickStartErrors:
    """Bias and variance of adaptation by shots and inner steps; prints as a table.

    Attributes:
        name: the algorithm.
        quantity: what bias and variance add up to, "query loss" or "squared error".
        shots: examples in a support set.
        steps: inner steps.
        repeats: support sets of each task and number of shots.
        bias: (shots, steps, tasks), what averaging over support sets does not remove; as an estimate without bias it
            may fall slightly below zero where the truth is zero.
        variance: (shots, steps, tasks), what the choice of the support set brings in. Both are infinite where one of a
            task's adaptations overflowed.
    """

    name: str
    quantity: str
    shots: tuple[int, ...]
    steps: tuple[int, ...]
    repeats: int
    bias: Tensor
    variance: Tensor

    @property
    def error(self) -> Tensor:
        """(shots, steps, tasks) bias + variance: the mean over support sets."""
        return self.bias + self.variance

    @property
    def best(self) -> pd.DataFrame:
        """One row for each number of shots: the number of steps with the least mean error.

        Columns: shots, steps, lowest and highest (of the steps measured, the least and the largest number that is no
        worse by more than two standard errors of the difference on the same tasks and support sets), error, error_se.
        """
        import pandas as pd

        rows = []
        for shots, error in zip(self.shots, self.error, strict=True):  # (steps, tasks)
            mean, std_error = _over_tasks(error)
            winner = int(mean.argmin())
            worse, doubt = _over_tasks(error - error[winner])
            tied = [n for n, tie in zip(self.steps, worse <= 2 * doubt, strict=True) if tie] or [self.steps[winner]]
            score = float(mean[winner]), float(std_error[winner])
            rows.append((shots, self.steps[winner], tied[0], tied[-1], *score))
        return pd.DataFrame(rows, columns=["shots", "steps", "lowest", "highest", "error", "error_se"])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with columns shots, steps, and bias, variance, error with their standard errors (_se).

        The standard errors are over tasks, as a sample of those to come, and hold the chance of the support sets.
        """
        import pandas as pd

        index = pd.MultiIndex.from_product([self.shots, self.steps], names=["shots", "steps"])
        columns = {}
        for name in ("bias", "variance", "error"):
            mean, std_error = _over_tasks(getattr(self, name))
            columns[name], columns[f"{name}_se"] = mean.flatten().cpu().numpy(), std_error.flatten().cpu().numpy()
        return pd.DataFrame(columns, index).reset_index()

    def __str__(self) -> str:
        best, parts = self.best, ("bias", "variance", "error")
        steps = best.set_index("shots")["steps"]
        lines = [
            f"{self.name}: {self.quantity}, {self.bias.shape[-1]} tasks, {self.repeats} support sets of each",
            f"{'shots':>5}  {'steps':>5}" + "".join(f"  {part:>9} +- {'se':<7}" for part in parts),
        ]
        for row in self.to_frame().to_dict("records"):
            numbers = "".join(f"  {row[part]:9.4g} +- {row[f'{part}_se']:<7.2g}" for part in parts)
            star = "  least" if row["steps"] == steps[row["shots"]] else ""
            lines.append(f"{row['shots']:5d}  {row['steps']:5d}{numbers}{star}".rstrip())
        least = best.loc[best["error"].idxmin()]
        return "\n".join([*lines, f"best of all: {least.shots:.0f} shots, {least.steps:.0f} steps"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with bias, variance and error over the inner steps, a colour for each number of shots."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
        table, best = self.to_frame(), self.best.set_index("shots")
        styles = {"error": "-", "bias": "--", "variance": ":"}
        for index, shots in enumerate(self.shots):
            rows, color = table[table["shots"] == shots].sort_values("steps"), f"C{index}"
            for part, style in styles.items():
                line = {"color": color, "ls": style, "lw": 1.8 if part == "error" else 1.1}
                ax.errorbar(rows["steps"], rows[part], rows[f"{part}_se"], capsize=2, elinewidth=0.8, **line)
            label = f"{shots} shot{'s' if shots > 1 else ''}"
            ax.plot(best.loc[shots, "steps"], best.loc[shots, "error"], "o", color=color, ms=6, label=label)
        ax.set(xlabel="inner steps", ylabel=self.quantity, title=self.name)
        ax.locator_params(axis="x", integer=True)
        handles = [plt.Line2D([], [], color="0.3", ls=style, label=part) for part, style in styles.items()]
        ax.legend(handles=[*ax.get_legend_handles_labels()[0], *handles], frameon=False, fontsize="small", ncols=2)
        return ax


def quick_start(
    learner: MetaLearner | Trained,
    tasks: Task,
    *,
    shots: Sequence[int] = (1, 2, 5, 10),
    steps: Sequence[int] = (0, 1, 2, 5, 10),
    repeats: int = 50,
    draw: SupportSampler | None = None,
    residuals: Residuals | None = None,
    chunk_size: int = 256,
    generator: torch.Generator | None = None,
) -> QuickStartErrors:
    """Return bias and variance of the adapted learner, by the number of examples and of inner steps.

    A task is adapted to many support sets D of K examples, and judged on its query. With ``residuals`` r (prediction
    minus target at the query's points), the mean squared error splits into

        E r_D^2 = (E r_D)^2 + E (r_D - E r_D)^2 = bias + variance    (means over D; then over points)

    The variance is that of the predictions and holds all that D brings in by chance: which examples, which noise. Noise
    in the query's own targets adds its variance to the bias. Without ``residuals`` the query loss L is split at the
    mean of the adapted parameters p, bias = L(E p), variance = E L(p_D) - L(E p): the same where predictions are linear
    in p, the excess over the minimum for a bowl, of little meaning where averaged parameters are no model (networks
    after long steps; the "variance" may then be negative). A classifier's residuals: probabilities less one-hot labels.

    Over R sets in place of all, the variance is scaled by R / (R - 1) and the bias is what it leaves of the mean error,
    so that neither errs on average (exactly so where the error is quadratic).

    Args:
        learner: a meta-learner, or what ``meta_train`` returned.
        tasks: two tasks at the least; every tensor of their support is (tasks, examples, ...).
        shots: sizes K of the support sets.
        steps: numbers of inner steps.
        repeats: support sets of each task for each K.
        draw: (K, generator) -> a fresh support set for each of these same tasks, in order. None to draw K of a task's N
            support examples without replacement: such sets overlap, and the variance is about 1 - K / N of that of
            fresh ones, so let N be large.
        residuals: (params, query) of one task -> prediction minus target, a tensor of any shape.
        chunk_size: support sets adapted at once.
        generator: of the support sets, on the CPU, with another seed than the tasks had; None for one of its own.

    Raises:
        TypeError, ValueError: what the door finds wrong with the tasks; shots, steps or repeats that are not whole
            numbers or too few; a pool with no more than K examples.

    Reference: Geman, Bienenstock, Doursat, Neural Computation 4, 1 (1992), for the decomposition.

    >>> from scimeta.core.learners import maml
    >>> def loss(params, x):
    ...     return 0.5 * ((params["a"] - x) ** 2).mean()
    >>> measured = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    >>> learner = maml(loss, {"a": torch.tensor(1.0)}, lr=0.5)
    >>> errors = quick_start(learner, Task(measured, torch.zeros(20, 1)), shots=(1, 4), steps=(0, 1, 2))
    >>> errors.best[["shots", "steps"]].values.tolist()
    [[1, 1], [4, 2]]
    """
    learner = learner.learner if isinstance(learner, Trained) else learner
    shots, steps = _whole("shots", shots, 1), _whole("steps", steps, 0)
    if not isinstance(repeats, int) or repeats < 2:
        raise ValueError(f"quick_start: repeats is 2 or more, a variance needs two support sets; got {repeats!r}")
    generator = generator if generator is not None else torch.Generator().manual_seed(_SEED)
    device = next(iter(learner.meta.init.values())).device
    tasks = check_batch(learner, _to(tasks, device), "quick_start")
    number = count_tasks(tasks)
    if number < 2:
        raise ValueError("quick_start: got one task, of which there is no standard error; repeat it on the task axis")
    draw = _subsets(tasks.support, shots, repeats, generator) if draw is None else _repeated(draw, repeats)
    split = _splitter(learner, steps, residuals, chunk_size)
    together, parts = max(1, chunk_size // repeats), []  # tasks
    chunks = [slice(first, first + together) for first in range(0, number, together)]
    for count in shots:
        sets = _to(draw(count, generator), device)  # (tasks, repeats, ...)
        first = Task(pytree.tree_map(lambda leaf: leaf[:, 0], sets), tasks.query)
        check_batch(learner, first, f"quick_start, {count} shots")
        with torch.no_grad():
            pieces = [split(learner.meta, select_tasks(sets, c), select_tasks(tasks.query, c)) for c in chunks]
        parts.append([torch.cat(piece, 1) for piece in zip(*pieces, strict=True)])
    bias, variance = (torch.stack(part) for part in zip(*parts, strict=True))
    quantity = "query loss" if residuals is None else "squared error"
    return QuickStartErrors(learner.name, quantity, shots, steps, repeats, bias, variance)


def _splitter(
    learner: MetaLearner, steps: tuple[int, ...], residuals: Residuals | None, chunk_size: int
) -> Callable[[Meta, Data, Data], tuple[Tensor, Tensor]]:
    """Return (meta, supports (tasks, repeats, ...), queries) -> bias and variance, both (steps, tasks)."""

    def of_one(meta: Meta, support: Data, query: Data) -> list[tuple[Tensor | Params, Tensor]]:
        path = list(learner.adapt.path(meta, support, max(steps)))
        if residuals is None:
            return [(path[count], learner.query_loss(path[count], query)) for count in steps]
        errors = [residuals(path[count], query) for count in steps]
        return [(error, error.square().mean()) for error in errors]

    adapted = over_tasks(of_one, (None, 0, 0), chunk_size=chunk_size)

    def split(meta: Meta, supports: Data, query: Data) -> tuple[Tensor, Tensor]:
        repeats = pytree.tree_leaves(supports)[0].shape[1]
        each = pytree.tree_map(lambda leaf: leaf.repeat_interleave(repeats, 0), query)
        flat = adapted(meta, pytree.tree_map(lambda leaf: leaf.flatten(0, 1), supports), each)
        errors, variances = [], []
        for seen, error in pytree.tree_map(lambda leaf: leaf.unflatten(0, (-1, repeats)), flat):
            errors.append(error.mean(1))
            if residuals is None:
                middle = {name: value.mean(1) for name, value in seen.items()}
                excess = errors[-1] - over_tasks(learner.query_loss)(middle, query)
                variances.append(excess * (repeats / (repeats - 1)))
            else:
                variances.append(seen.var(1).reshape(len(seen), -1).mean(1))
        error, variance = torch.stack(errors), torch.stack(variances)  # (steps, tasks)
        diverged = ~(variance.isfinite() & error.isfinite())
        return (error - variance).masked_fill(diverged, torch.inf), variance.masked_fill(diverged, torch.inf)

    return split


def _subsets(pool: Data, shots: tuple[int, ...], repeats: int, generator: torch.Generator) -> SupportSampler:
    """Return K -> support sets (tasks, repeats, K, ...), the first K of random orders of each task's examples."""
    sizes = {tuple(leaf.shape[:2]) for leaf in pytree.tree_leaves(pool)}
    if len(sizes) > 1 or len(min(sizes)) < 2:
        raise ValueError(
            "quick_start: to draw from them, every tensor of the support is (tasks, examples, ...); the first axes are "
            f"{', '.join(map(str, sorted(sizes)))}. Pass draw= for tasks of another form"
        )
    tasks, examples = sizes.pop()
    if max(shots) >= examples:
        raise ValueError(
            f"quick_start: {max(shots)} shots of {examples} examples leave no choice; "
            "give tasks with more support examples, fewer shots, or draw="
        )
    order = torch.rand(tasks, repeats, examples, generator=generator).argsort(-1)
    order = order.to(pytree.tree_leaves(pool)[0].device)
    rows = torch.arange(tasks, device=order.device)[:, None, None]
    return lambda count, _: pytree.tree_map(lambda leaf: leaf[rows, order[..., :count]], pool)


def _repeated(draw: SupportSampler, repeats: int) -> SupportSampler:
    """Return K -> support sets (tasks, repeats, ...) from the caller's sampler."""

    def drawn(count: int, generator: torch.Generator) -> Data:
        sets = [draw(count, generator) for _ in range(repeats)]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves, 1), *sets)

    return drawn


def _over_tasks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard error over the last axis, the tasks."""
    return values.mean(-1), values.std(-1) / math.sqrt(values.shape[-1])


def _whole(name: str, numbers: Sequence[int], least: int) -> tuple[int, ...]:
    numbers = tuple(numbers)
    if not numbers or not all(isinstance(n, int) and n >= least for n in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"quick_start: {name} are different integers from {least} up; got {numbers}")
    return tuple(sorted(numbers))


def _to(nest: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, nest)

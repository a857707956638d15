"""Is what was recorded still what the loss says? One batch runs afresh and is compared."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from scimeta.core.learners import MetaLearner
from scimeta.core.recording import autocast_state, execution, recorded_anew
from scimeta.core.rules import Meta
from scimeta.core.tasks import Task

_ROUNDINGS = 64  # by which losses can differ without a closer look
_TRIES = 4  # runs that all agree where nothing is drawn; of small draws two may by chance
_DRAWN = (
    "it draws random numbers of its own (by NumPy, by `random`), which a recording keeps as they were; draw them in "
    "the sampler, as part of the tasks' data"
)
_CHANGED = (
    "it reads something that has changed since (a Python number, a counter, a tensor that was replaced), which a "
    "recording keeps as it was; make it part of the tasks' data, as a tensor with a leading task axis"
)


def check_recording(learner: MetaLearner, meta: Meta, task: Task, step: int = 0, where: str = "meta_train") -> None:
    """Return if the learner's losses are those that it gives when its functions run afresh, without the recording.

    A recording keeps the Python numbers and tensors that a loss closes over as they were when it was made. The batch
    runs eagerly first. Where that differs by more than 64 roundings (in mixed precision, one of the coarser type's),
    which a long inner loop may make of one, it is recorded anew: if nothing has changed, both recordings are the same
    operations in the same order, and their losses the same bits. No generator is advanced; the loss's own code runs.

    Args:
        learner: whose meta-gradient is looked at.
        meta, task, step: that it is called with; of a batch like those that it has been called with.
        where: the function in whose name the error speaks.

    Raises:
        ValueError: they differ; names the step, the task and the kind of what has changed.

    >>> from scimeta.core.learners import maml
    >>> weight = [1.0]
    >>> learner = maml(lambda p, x: weight[0] * (p["a"] - x) ** 2, {"a": torch.tensor(0.0)}, lr=0.25)
    >>> task = Task(torch.tensor([1.0]), torch.tensor([1.0]))
    >>> check_recording(learner, learner.meta, task)
    >>> weight[0] = 2.0
    >>> try:
    ...     check_recording(learner, learner.meta, task, where="my loop")
    ... except ValueError as error:
    ...     print(str(error).split(":")[1])
     at step 1 the query loss of task 0 is 0.25 by what was recorded when it first ran, and 0 afresh
    """
    losses = learner.meta_gradient(meta, task, step)[0]
    try:
        fresh = _afresh(learner, meta, task, step)
    except torch.OutOfMemoryError:
        warnings.warn(f"{where}: no memory to run a batch afresh, so that its recording is not checked", stacklevel=3)
        return
    size = losses.abs().nan_to_num(0.0, 0.0, 0.0)
    least = _ROUNDINGS * torch.finfo(losses.dtype).eps * size
    half_precision = max((torch.finfo(dtype).eps for _, dtype in autocast_state()), default=0.0) * size
    if (_apart(losses, fresh) <= least + half_precision).all():
        return
    with recorded_anew(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be recorded has been said
        anew = learner.meta_gradient(meta, task, step)[0]
    unsteady = _apart(losses, learner.meta_gradient(meta, task, step)[0])  # a device that sums in any order
    off = _apart(losses, anew) > least + 10 * unsteady
    if not off.any():
        return
    index = int(off.nonzero()[0, 0])
    again = (_afresh(learner, meta, task, step) for _ in range(_TRIES))
    drawn = any(bool((_apart(fresh, one) > least)[index]) for one in again)
    raise ValueError(
        f"{where}: at step {step + 1} the query loss of task {index} is {float(losses[index]):.6g} by what was "
        f"recorded when it first ran, and {float(anew[index]):.6g} afresh: {_DRAWN if drawn else _CHANGED}"
    )


def _afresh(learner: MetaLearner, meta: Meta, task: Task, step: int) -> Tensor:
    with execution("eager"):
        return learner.meta_gradient(meta, task, step)[0].detach()


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Return |one - other|; zero where both are not finite, infinite where one is."""
    both = one.isfinite() & other.isfinite()
    alike = one.isfinite() == other.isfinite()
    return torch.where(both, (one - other).abs(), torch.where(alike, 0.0, torch.inf))

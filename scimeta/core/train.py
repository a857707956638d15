"""The outer loop: batches of tasks in, a learned initialisation and rule out; killable and resumable at any step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _pytree as pytree
from tqdm import tqdm

from scimeta.core.checkpoint import (
    check_checkpoint,
    compare,
    describe,
    has_parts,
    place,
    random_state,
    read_state,
    restore_random_state,
    write_state,
)
from scimeta.core.distributed import find_device, join
from scimeta.core.door import check_batch, counted, idle_parameters
from scimeta.core.fresh import check_recording
from scimeta.core.learners import MetaLearner
from scimeta.core.recording import execution, mixed_precision, record
from scimeta.core.rules import Meta
from scimeta.core.tasks import Task, TaskSampler
from scimeta.core.trained import Trained, path_losses

_WATCH = 50  # outer steps between two looks at the losses; each look waits for the device
_DIVERGED = 1e6  # times the first losses


def meta_train(
    learner: MetaLearner | Trained,
    tasks: TaskSampler,
    *,
    steps: int,
    tasks_per_step: int = 16,
    lr: float = 1e-3,
    optimizer: Callable[..., Optimizer] = torch.optim.Adam,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = None,
    learn: Sequence[str] = ("init.*", "rule.*"),
    validation: TaskSampler | Task | None = None,
    validation_tasks: int = 100,
    validate_every: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str | torch.device | None = None,
    precision: torch.dtype | None = None,
    compile: bool = False,
    generator: torch.Generator,
) -> Trained:
    """Return the learner after ``steps`` outer steps.

    Started by ``torchrun --nproc-per-node=N``, every process takes its share of each batch; the result is that of one
    process up to the order of summation. Killed at any moment and called again with the same arguments, it goes on from
    the checkpoint to the result of an uninterrupted run, bit by bit on the same machine.

    Args:
        learner: the algorithm, on a loss that is recorded at the first step (see ``maml``), or an earlier result to go
            on from. Left untouched.
        tasks: (number, generator) -> a batch of tasks, of the same shapes each time; its randomness comes from the
            generator alone. One more batch than is trained on is drawn, to try the loss.
        steps: outer steps in all; a checkpoint that is already past them comes back as it is.
        tasks_per_step: tasks of each step.
        lr: outer step size.
        optimizer: any torch.optim class, or a partial of one.
        scheduler: optimizer -> a torch learning-rate scheduler, stepped after each outer step.
        clip_norm: the joint norm down to which larger meta-gradients are scaled.
        learn: patterns of what is learned, among "init.<name>" and "rule.<name>".
        validation: tasks on which the best state is picked: a batch, or a sampler of which one batch is drawn.
        validation_tasks: their number.
        validate_every: outer steps between validations.
        checkpoint: a file to write to and, if it is there, to resume from. The loss and the rule's own numbers (the
            inner lr) are not in it: keep them as they were.
        checkpoint_every: outer steps between writings.
        device: "cpu", "cuda" ...; None for where the learner's parameters are.
        precision: torch.bfloat16 for mixed precision by torch.autocast (in float16 small gradients vanish), or None.
        compile: True to compile the meta-step (10 to 200 s at the start; falls back with a warning that says why).
        generator: of the tasks, on the CPU.

    Raises:
        TypeError, ValueError: what the door finds wrong with the learner, the tasks or an argument; a checkpoint of
            another run or a truncated one; a device that is absent; a loss that is no longer what was recorded (see
            ``maml``), for which one batch runs afresh at the 50th step, at each validation and at the end.
        FloatingPointError: a query loss became nan or infinite or grew a million times; names the step and the task.
            Its attribute ``trained``, and that of the error before, holds the last state that was sound.

    >>> def loss(params, x):
    ...     return (params["a"] - x) ** 2
    >>> def draw(number, generator):
    ...     x = 3 + torch.randn(number, generator=generator)
    ...     return Task(x, x)
    >>> from scimeta.core.learners import maml
    >>> learner = maml(loss, {"a": torch.tensor(0.0)}, lr=0.1)
    >>> trained = meta_train(learner, draw, steps=300, lr=0.05, generator=torch.Generator().manual_seed(0))
    >>> round(float(trained.meta.init["a"]))
    3
    """
    learner = learner.learner if isinstance(learner, Trained) else learner
    if not isinstance(learner, MetaLearner):
        raise TypeError(f"meta_train: learner is what maml and the like return; got {type(learner).__name__}")
    _check_numbers(steps, tasks_per_step, validation_tasks, validate_every, checkpoint_every)
    _check_choices(clip_norm, precision, checkpoint, generator)
    device = find_device(device, next(iter(learner.meta.init.values())).device)
    ranks = join(device)
    if tasks_per_step % ranks.size:
        raise ValueError(f"meta_train: {tasks_per_step} tasks cannot be shared evenly by {ranks.size} processes")
    learner = learner._replace(meta=_to(learner.meta, device))
    idle = _try_one(learner, tasks, tasks_per_step, device, generator)
    run = _Run(learner, optimizer, lr, scheduler, learn, idle)
    judge = _validator(learner, validation, validation_tasks, device, generator)
    settings = {
        **describe(learner),
        "tasks_per_step": tasks_per_step,
        "validation_tasks": None if validation is None else validation_tasks,
        "optimizer": type(run.optimizer).__name__,
        "scheduler": None if run.scheduler is None else type(run.scheduler).__name__,
        **_options(run.optimizer),
        "precision": None if precision is None else str(precision),
        "seed": generator.initial_seed(),
        "lr": lr,
        "clip_norm": clip_norm,
        "learn": list(learn),
        "validate_every": validate_every,
    }
    if checkpoint is not None and Path(checkpoint).exists():
        run.resume(checkpoint, settings, generator, device)
    bar = tqdm(total=steps, initial=run.step, desc=learner.name, delay=2, disable=True if ranks.rank else None)
    with bar, execution("compiled" if compile else "recorded"), mixed_precision(device, precision):
        while run.step < steps:
            batch = counted(_to(tasks(tasks_per_step, generator), device), tasks_per_step)
            batch = ranks.share(batch, tasks_per_step)
            losses, gradient = ranks.average(*learner.meta_gradient(run.meta, batch, run.step))
            run.update(gradient, losses, clip_norm)
            validate = judge is not None and (run.step % validate_every == 0 or run.step == steps)
            write = checkpoint is not None and (run.step % checkpoint_every == 0 or run.step == steps)
            if validate or write or run.step % _WATCH == 0 or run.step == steps:
                run.look(checkpoint)
                bar.set_postfix_str(f"loss {run.losses[-1]:.4g}", refresh=False)
            if validate or run.step in (_WATCH, steps):
                run.compare(batch)
            if validate:
                run.validate(judge)
            if write and ranks.rank == 0:
                run.write(checkpoint, settings, generator, device)
            bar.update()
    ranks.wait()
    return run.result()


@dataclass
class _Run:
    """The state of a run: all that a checkpoint holds."""

    learner: MetaLearner
    make_optimizer: Callable[..., Optimizer]
    lr: float
    make_scheduler: Callable[[Optimizer], LRScheduler] | None
    learn: Sequence[str]
    idle: set[str]  # parameters that no loss depends on
    step: int = 0
    losses: list[float] = field(default_factory=list)  # of every step
    validations: dict[int, float] = field(default_factory=dict)  # step -> loss
    unseen: list[Tensor] = field(default_factory=list)  # losses since the last look, still on the device

    def __post_init__(self) -> None:
        self.meta = pytree.tree_map(
            lambda leaf: leaf.detach().clone(memory_format=torch.contiguous_format), self.learner.meta
        )
        if isinstance(self.learn, str):
            raise TypeError(f"meta_train: learn is a sequence of patterns, such as ({self.learn!r},)")
        self.best, self.best_step = self._copy(), 0
        names = [f"{part}.{name}" for part in Meta._fields for name in getattr(self.meta, part)]
        for pattern in self.learn:
            if not any(fnmatchcase(name, pattern) for name in names) and pattern not in ("init.*", "rule.*"):
                raise ValueError(f"meta_train: learn pattern {pattern!r} matches nothing; there are {', '.join(names)}")
        self.learned = [
            (part, name)
            for part in Meta._fields
            for name in getattr(self.meta, part)
            if any(fnmatchcase(f"{part}.{name}", pattern) for pattern in self.learn)
            # Weight decay must not move what has no gradient: a displacement says nothing about the rule.
            and (name not in self.idle if part == "init" else self.learner.estimate != "displacement")
        ]
        if not self.learned:
            raise ValueError(f"meta_train: learn={tuple(self.learn)} leaves nothing to learn among {', '.join(names)}")
        self.optimizer = _optimizer(self.make_optimizer, self._leaves(), self.lr)
        self.scheduler = self.make_scheduler(self.optimizer) if self.make_scheduler else None
        for kind in (self.optimizer, self.scheduler):
            if kind is not None and _needs_argument(type(kind).step):
                raise ValueError(
                    f"meta_train: {type(kind).__name__}.step() needs an argument that an outer loop does not have; "
                    "choose one that steps by the gradient, or by the count, alone"
                )

    def _leaves(self) -> list[Tensor]:
        return [getattr(self.meta, part)[name] for part, name in self.learned]

    def _copy(self) -> Meta:
        return pytree.tree_map(torch.clone, self.meta)

    def update(self, gradient: Meta, losses: Tensor, clip_norm: float | None) -> None:
        """Take one outer step."""
        leaves = self._leaves()
        for leaf, (part, name) in zip(leaves, self.learned, strict=True):
            leaf.grad = getattr(gradient, part)[name].to(leaf.dtype).contiguous()  # fused ones walk through memory
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.step += 1
        self.unseen.append(losses.detach())

    def look(self, checkpoint: str | Path | None) -> None:
        """Fetch the losses since the last look, and stop if one of them is not finite or has grown out of bounds."""
        if not self.unseen:
            return
        seen = torch.stack(self.unseen).double().cpu()  # (steps, tasks)
        first = self.losses[:_WATCH] or seen[:1].mean(1).tolist()
        bound = _DIVERGED * (1 + max(map(abs, first)))
        bad = (~(seen.abs() < bound)).nonzero()
        if len(bad):
            row, task = bad[0].tolist()
            step, value = self.step - len(seen) + row + 1, float(seen[row, task])
            self.stop(f"at step {step} the query loss of task {task} (of {seen.shape[1]}) is {value:.3g}", checkpoint)
        for part, name in self.learned:
            if not torch.isfinite(getattr(self.meta, part)[name]).all():
                self.stop(
                    f"after step {self.step} {part}.{name} is not finite, although the query losses are: "
                    f"a meta-gradient since step {self.step - len(seen) + 1} was not",
                    checkpoint,
                )
        self.losses += seen.mean(1).tolist()
        self.unseen.clear()
        if not any(map(math.isfinite, self.validations.values())):
            self.best, self.best_step = self._copy(), self.step

    def compare(self, batch: Task) -> None:
        """Stop if the loss is no longer what was recorded."""
        try:
            check_recording(self.learner, self.meta, batch, self.step - 1)
        except ValueError as error:
            error.trained = self.result()
            raise

    def stop(self, what: str, checkpoint: str | Path | None) -> NoReturn:
        """Raise what went wrong, with the last sound state."""
        kept = "" if checkpoint is None else f" The checkpoint {checkpoint} still holds the last state written."
        error = FloatingPointError(
            f"meta_train: {what}; lower the outer lr ({self.lr:g}) or the inner step size, or set clip_norm.{kept}"
        )
        error.trained = self.result()
        raise error

    def validate(self, judge: Callable[[Meta], Tensor]) -> None:
        """Judge the present state, and keep it if it is the best so far."""
        loss = float(judge(self.meta))
        if loss < min((v for v in self.validations.values() if not math.isnan(v)), default=math.inf):
            self.best, self.best_step = self._copy(), self.step
        self.validations[self.step] = loss

    def result(self) -> Trained:
        steps = range(1, len(self.losses) + 1)
        validation = [self.validations.get(step, float("nan")) for step in steps]
        history = pd.DataFrame({"step": steps, "loss": self.losses, "validation": validation})
        return Trained(self.learner._replace(meta=self.best), history, self.best_step)

    def write(self, path: str | Path, settings: dict[str, Any], generator: torch.Generator, device: Any) -> None:
        state = {
            "learner": describe(self.learner),
            "settings": settings,
            "step": self.step,
            "meta": self.meta._asdict(),
            "best": self.best._asdict(),
            "best_step": self.best_step,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "validations": self.validations,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "random": random_state(generator, device),
        }
        write_state(path, state)

    def resume(self, path: str | Path, settings: dict[str, Any], generator: torch.Generator, device: Any) -> None:
        state = read_state(path)
        if not has_parts(state, "settings", "meta", "optimizer", "random"):
            raise ValueError(f"{path} holds no run of meta_train to go on from; name another checkpoint file")
        compare(settings, state["settings"], path)
        stored = place(state["meta"], self.meta)
        for now, then in zip(pytree.tree_leaves(self.meta), pytree.tree_leaves(stored), strict=True):
            now.copy_(then)
        self.best, self.best_step = place(state["best"], self.meta), state["best_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.losses = state["step"], state["losses"].tolist()
        self.validations = state["validations"]
        restore_random_state(state["random"], generator, device)


def _optimizer(make: Callable[..., Optimizer], leaves: list[Tensor], lr: float) -> Optimizer:
    """Return the optimiser over the leaves, in its fused form where it has one that nobody has decided on."""
    known = inspect.signature(make).parameters
    if all(name in known and known[name].default is None for name in ("fused", "foreach")):
        try:
            return make(leaves, lr=lr, fused=True)
        except RuntimeError:  # another of its options does not go with fused
            pass
    return make(leaves, lr=lr)


def _options(optimizer: Optimizer) -> dict[str, str]:
    """Return the options of an optimiser that change where a run goes."""
    silent = ("lr", "fused", "foreach", "capturable", "differentiable")
    return {f"optimizer {name}": repr(value) for name, value in optimizer.defaults.items() if name not in silent}


def _needs_argument(step: Callable[..., Any]) -> bool:
    """Whether a method needs more than self."""
    _, *others = inspect.signature(step).parameters.values()
    return any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in others)


def _check_numbers(*numbers: int) -> None:
    names = ("steps", "tasks_per_step", "validation_tasks", "validate_every", "checkpoint_every")
    for name, number in zip(names, numbers, strict=True):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"meta_train: {name} is a positive integer; got {number!r}")


def _check_choices(clip_norm: Any, precision: Any, checkpoint: str | Path | None, generator: Any) -> None:
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise TypeError(f"meta_train: generator is a torch.Generator on the CPU; got {generator!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"meta_train: clip_norm is a positive number, or None; got {clip_norm!r}")
    if precision not in (None, torch.bfloat16):
        raise ValueError(f"meta_train: precision is torch.bfloat16 or None; got {precision!r}")
    if checkpoint is not None and Path(checkpoint).is_dir():
        raise IsADirectoryError(f"meta_train: the checkpoint {checkpoint} is a folder; name a file in it")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise FileNotFoundError(
            f"meta_train: cannot write {checkpoint}: the folder {Path(checkpoint).parent} does not exist"
        )
    if checkpoint is not None:
        check_checkpoint(checkpoint)


def _try_one(
    learner: MetaLearner, tasks: TaskSampler, number: int, device: torch.device, generator: torch.Generator
) -> set[str]:
    """Let a first batch through the door; return which parameters no loss depends on. The generator is put back."""
    if not callable(tasks):
        raise TypeError(f"meta_train: tasks is a sampler (number, generator) -> Task; got {type(tasks).__name__}")
    before = random_state(generator, device)
    try:
        batch = check_batch(learner, _to(tasks(number, generator), device))
        return idle_parameters(learner, counted(batch, number))
    finally:
        restore_random_state(before, generator, device)


def _validator(
    learner: MetaLearner,
    validation: TaskSampler | Task | None,
    number: int,
    device: torch.device,
    generator: torch.Generator,
) -> Callable[[Meta], Tensor] | None:
    """Return meta -> mean query loss of the validation tasks, the same tasks however often the run is resumed."""
    if validation is None:
        return None
    if callable(validation):
        validation = validation(number, torch.Generator().manual_seed(generator.initial_seed() + 1))
    batch = check_batch(learner, _to(validation, device), "meta_train, validation")
    losses = record(path_losses(learner, learner.query_loss))
    return lambda meta: losses(meta, batch)[-1].mean()


def _to(nest: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda x: x.detach().to(device, non_blocking=True) if isinstance(x, Tensor) else x, nest)

"""The outer loop against plain loops and closed forms; what it refuses, and how it stops."""

from __future__ import annotations

import functools
import io
import itertools
import math
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from scimeta import analytic, check_meta_gradient
from scimeta.core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.rules import Meta
from scimeta.core.tasks import Task, TaskSampler
from scimeta.core.train import meta_train
from scimeta.core.trained import Trained
from tests.core.problems import F64, close, differences, normal, seeded

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def curve(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return ((torch.tanh(x[:, None] @ params["w"]) @ params["v"] + params["b"] - y) ** 2).mean()


PARAMS = {"w": normal(1, 6, seed=1), "v": normal(6, seed=2) / 6**0.5, "b": torch.zeros((), dtype=F64)}


def waves(number: int, generator: torch.Generator) -> Task:
    height, *x = (torch.rand(number, n, generator=generator, dtype=F64) for n in (1, 5, 7))
    return Task(*((6 * x - 3, (1 + height) * torch.sin(6 * x - 3)) for x in x))


class Counted:
    """A sampler that counts its calls; ``change`` alters the batch of a call, 1 for the first after the door's."""

    def __init__(self, sampler: TaskSampler = waves, change: dict[int, Callable[[Task], Task]] | None = None) -> None:
        self.sampler, self.change, self.calls = sampler, change or {}, 0

    def __call__(self, number: int, generator: torch.Generator) -> Task:
        batch = self.change.get(self.calls, lambda batch: batch)(self.sampler(number, generator))
        self.calls += 1
        return batch


def by_hand(
    learner: MetaLearner,
    steps: int,
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    *,
    schedule: Callable | None = None,
    clip: float | None = None,
    tasks_per_step: int = 4,
) -> tuple[Meta, list[float], list[float]]:
    """Return the meta, the losses and the rates of an outer loop written down plainly."""
    meta = Meta(*({name: value.clone() for name, value in part.items()} for part in learner.meta))
    leaves, generator = [*meta.init.values(), *meta.rule.values()], seeded()
    optimizer = make(leaves)
    scheduler = schedule(optimizer) if schedule else None
    losses, rates = [], []
    for step in range(steps):
        each, gradient = learner.meta_gradient(meta, waves(tasks_per_step, generator), step)
        for leaf, grad in zip(leaves, [*gradient.init.values(), *gradient.rule.values()], strict=True):
            leaf.grad = grad.contiguous()
        if clip is not None:
            norm = torch.cat([leaf.grad.reshape(-1) for leaf in leaves]).norm()
            for leaf in leaves:
                leaf.grad = leaf.grad * min(1.0, clip / float(norm))
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(each.mean()))
    return meta, losses, rates


# Algorithms land on their closed forms.

CURVATURE = torch.tensor([[[2.0, 0.6], [0.6, 1.0]], [[0.8, -0.3], [-0.3, 3.0]], [[1.2, 0.0], [0.0, 0.5]]], dtype=F64)
BOWLS = analytic.Bowls(CURVATURE, torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.5, 3.0]], dtype=F64))
THETA = {"theta": torch.tensor([4.0, -3.0], dtype=F64)}
LR, WEIGHTS = 0.2, (0.25, 0.25, 0.25, 0.25)


def settle(learner: MetaLearner, seen: analytic.Bowls) -> Trained:
    """Return the learner trained on all bowls at every step, at the rate that suits the steepest direction."""
    batch, bends = Task(*(tuple(BOWLS),) * 2), torch.linalg.eigvalsh(seen.curvature.mean(0))
    return meta_train(
        learner,
        lambda number, generator: batch,
        steps=math.ceil(
            math.log(1e-7) / math.log(1 - float(bends.min() / bends.max()))
        ),  # the flattest is reached, too
        tasks_per_step=len(BOWLS.centre),
        lr=1 / float(bends.max()),
        optimizer=torch.optim.SGD,
        learn=("init.*",),
        generator=seeded(),
    )


METHODS = {
    "maml, 1 step": (maml(analytic.loss, THETA, lr=LR), analytic.maml(BOWLS, lr=LR)),
    "maml, 3 steps": (maml(analytic.loss, THETA, lr=LR, steps=3), analytic.maml(BOWLS, lr=LR, steps=3)),
    "maml, 12 steps back": (maml(analytic.loss, THETA, lr=0.05, steps=12), analytic.maml(BOWLS, lr=0.05, steps=12)),
    "fomaml": (fomaml(analytic.loss, THETA, lr=LR, steps=3), analytic.fomaml(BOWLS, lr=LR, steps=3)),
    "reptile": (reptile(analytic.loss, THETA, lr=LR, steps=6), analytic.reptile(BOWLS, lr=LR, steps=6)),
    "meta_sgd": (meta_sgd(analytic.loss, THETA, lr=LR, steps=2), analytic.maml(BOWLS, lr=LR, steps=2)),
    "maml_plus_plus": (
        maml_plus_plus(analytic.loss, THETA, lr=LR, steps=4, multi_step_until=10**12),
        analytic.multi_step_maml(BOWLS, lr=LR, weights=WEIGHTS),
    ),
    "imaml": (
        imaml(analytic.loss, THETA, lr=0.2, steps=35, strength=1.5),
        analytic.imaml(BOWLS, strength=1.5),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_an_algorithm_trained_on_bowls_lands_on_its_closed_form(name: str) -> None:
    learner, seen = METHODS[name]
    truth = analytic.optimum(seen)
    assert (truth - analytic.optimum(BOWLS)).norm() > 0.05  # not where joint training lands
    trained = settle(learner, seen)
    torch.testing.assert_close(trained.meta.init["theta"], truth, rtol=0, atol=1e-4)
    if name == "meta_sgd":
        assert (trained.meta.rule["theta"] == LR).all()  # only "init.*" was learned


def test_anil_trained_on_bowls_lands_on_its_closed_form() -> None:
    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return analytic.loss({"theta": torch.stack([params["head"], params["body"]])}, data)

    # Only the head moves: theta - c becomes P (theta - c) with P = (1 - lr E A)^k, so that H = P' A P.
    only_head = torch.diag(torch.tensor([1.0, 0.0], dtype=F64))
    reach = torch.linalg.matrix_power(torch.eye(2, dtype=F64) - LR * only_head @ CURVATURE, 3)
    seen = analytic.Bowls(reach.mT @ CURVATURE @ reach, BOWLS.centre)
    start = {"head": THETA["theta"][0], "body": THETA["theta"][1]}
    trained = settle(anil(loss, start, lr=LR, steps=3, fast=("head",)), seen)
    found = torch.stack([trained.meta.init["head"], trained.meta.init["body"]])
    torch.testing.assert_close(found, analytic.optimum(seen), rtol=0, atol=1e-4)
    assert (analytic.optimum(seen) - analytic.optimum(BOWLS)).norm() > 0.05


def test_meta_sgd_on_bowls_learns_rates_below_the_loss_of_any_fixed_start() -> None:
    fixed = analytic.maml(BOWLS, lr=LR, steps=2)
    floor = float(analytic.meta_loss(fixed, analytic.optimum(fixed)))
    batch = Task(*(tuple(BOWLS),) * 2)
    trained = meta_train(
        METHODS["meta_sgd"][0], lambda *_: batch, steps=600, tasks_per_step=3, lr=0.02, generator=seeded()
    )
    assert trained.history["loss"].iloc[-1] < 0.5 * floor


# The loop is the loop that anyone would write.

OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": torch.optim.SGD,
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "weight decay": functools.partial(torch.optim.Adam, weight_decay=0.1, amsgrad=True),
    "foreach": functools.partial(torch.optim.Adam, foreach=True),
    "not foreach": functools.partial(torch.optim.Adam, foreach=False),
    "fused": functools.partial(torch.optim.AdamW, fused=True),
    "not fused": functools.partial(torch.optim.SGD, fused=False),
    "differentiable": functools.partial(torch.optim.Adam, differentiable=True),
    "a function": lambda leaves, lr: torch.optim.Adam(leaves, lr=lr),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_makes_the_steps_that_it_makes_in_a_plain_loop(name: str) -> None:
    make, learner = OPTIMIZERS[name], meta_sgd(curve, PARAMS, lr=0.05)
    known = torch.optim.Adam if name == "a function" else getattr(make, "func", make)
    chosen = {k: v for k, v in getattr(make, "keywords", {}).items() if k not in ("fused", "foreach")}
    truth, losses, _ = by_hand(learner, 20, lambda leaves: known(leaves, lr=0.01, **chosen))
    trained = meta_train(learner, waves, steps=20, tasks_per_step=4, lr=0.01, optimizer=make, generator=seeded())
    close(trained.meta, truth, 1e-10)
    assert trained.history["loss"].tolist() == pytest.approx(losses, rel=1e-10)
    assert trained.history["step"].tolist() == list(range(1, 21))


def test_the_layout_of_a_parameter_in_memory_changes_nothing() -> None:
    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return ((data[0][:5] @ params["w"] - data[1][:3]) ** 2).mean()

    w = normal(5, 3, seed=3)
    across = w.T.contiguous().T  # the same numbers, column after column
    row, column = (
        meta_train(maml(loss, {"w": w}, lr=0.1), waves, steps=20, tasks_per_step=4, generator=seeded())
        for w in (w, across)
    )
    close(row.meta, column.meta, 1e-10)


def test_the_layout_of_a_gradient_in_memory_changes_nothing() -> None:
    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return ((data[0][:5] @ params["w"] - data[1][:3]) ** 2).mean()

    def across(meta: Meta, task: Task, step: int) -> tuple[Tensor, Meta]:
        losses, gradient = learner.meta_gradient(meta, task, step)
        return losses, Meta({"w": gradient.init["w"].T.contiguous().T}, {})  # the same numbers, column after column

    learner = maml(loss, {"w": normal(5, 3, seed=3)}, lr=0.1)
    row, column = (
        meta_train(each, waves, steps=20, tasks_per_step=4, generator=seeded())
        for each in (learner, learner._replace(meta_gradient=across))
    )
    close(row.meta, column.meta, 1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 9]),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=25),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20),
    ],
    ids=["MultiStepLR", "OneCycleLR", "CosineAnnealingLR"],
)
def test_the_scheduler_sets_the_rate_of_every_step(make: Callable) -> None:
    learner = maml(curve, PARAMS, lr=0.05)
    truth, losses, rates = by_hand(learner, 20, lambda leaves: torch.optim.Adam(leaves, lr=0.05), schedule=make)
    assert len(set(rates)) > 2
    trained = meta_train(learner, waves, steps=20, tasks_per_step=4, lr=0.05, scheduler=make, generator=seeded())
    close(trained.meta, truth, 1e-10)
    assert trained.history["loss"].tolist() == pytest.approx(losses, rel=1e-10)


def test_clip_norm_scales_large_gradients_down_to_it_and_leaves_small_ones() -> None:
    learner, sgd = maml(curve, PARAMS, lr=0.05), functools.partial(torch.optim.SGD, lr=0.1)
    free = by_hand(learner, 15, sgd)[0]
    truth = by_hand(learner, 15, sgd, clip=0.2)[0]
    settings = {"steps": 15, "tasks_per_step": 4, "lr": 0.1, "optimizer": torch.optim.SGD}
    trained = meta_train(learner, waves, clip_norm=0.2, generator=seeded(), **settings)
    close(trained.meta, truth, 1e-5)  # torch adds 1e-6 to the norm
    loose = meta_train(learner, waves, clip_norm=1e6, generator=seeded(), **settings)
    close(loose.meta, free, 1e-10)
    assert (truth.init["v"] - free.init["v"]).norm() > 1e-3

    one = meta_train(learner, waves, clip_norm=1e-3, generator=seeded(), **{**settings, "steps": 1})
    moved = torch.cat([(one.meta.init[name] - PARAMS[name]).reshape(-1) for name in PARAMS])
    assert float(moved.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("learn", "moves"),
    [
        (("init.*", "rule.*"), ("init.w", "init.v", "init.b", "rule.w", "rule.v", "rule.b")),
        (("init.*",), ("init.w", "init.v", "init.b")),
        (("rule.*",), ("rule.w", "rule.v", "rule.b")),
        (("init.w", "rule.[vb]"), ("init.w", "rule.v", "rule.b")),
        (("*.v",), ("init.v", "rule.v")),
    ],
    ids=str,
)
def test_what_learn_does_not_name_stays_bit_by_bit(learn: tuple[str, ...], moves: tuple[str, ...]) -> None:
    learner = meta_sgd(curve, PARAMS, lr=0.05)
    make = functools.partial(torch.optim.AdamW, weight_decay=0.5)  # would shrink what it is given even without gradient
    trained = meta_train(
        learner, waves, steps=5, tasks_per_step=4, lr=0.01, optimizer=make, learn=learn, generator=seeded()
    )
    for part, name in itertools.product(Meta._fields, PARAMS):
        stays = torch.equal(getattr(trained.meta, part)[name], getattr(learner.meta, part)[name])
        assert stays != (f"{part}.{name}" in moves), f"{part}.{name}"


def test_the_learner_that_is_handed_in_stays_as_it_was() -> None:
    learner = maml(curve, PARAMS, lr=0.05)
    before = {name: value.clone() for name, value in learner.meta.init.items()}
    meta_train(learner, waves, steps=3, tasks_per_step=4, lr=0.1, generator=seeded())
    for name, value in before.items():
        assert torch.equal(learner.meta.init[name], value) and torch.equal(PARAMS[name], value)
        assert not learner.meta.init[name].requires_grad


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    learner = maml(curve, PARAMS, lr=0.05)
    one, two, other = (meta_train(learner, waves, steps=8, generator=seeded(seed)) for seed in (3, 3, 4))
    assert not differences(one.meta, two.meta)
    assert one.history.equals(two.history) and not one.history.equals(other.history)


# Validation.


def validated(steps: int = 24, **options: object) -> Trained:
    """Return a run whose rate is so high that its last state is not its best."""
    settings = {"tasks_per_step": 4, "lr": 0.3, "validation": waves, "validation_tasks": 9, "validate_every": 5}
    return meta_train(maml(curve, PARAMS, lr=0.05), waves, steps=steps, generator=seeded(), **{**settings, **options})


def test_the_state_that_comes_back_is_the_best_of_the_validated_ones() -> None:
    trained = validated()
    judged = trained.history.dropna(subset="validation")
    assert judged["step"].tolist() == [5, 10, 15, 20, 24]  # every fifth, and the last
    assert trained.best_step == judged.loc[judged["validation"].idxmin(), "step"] < 24
    stopped = validated(trained.best_step, validation=None)
    assert not differences(trained.meta, stopped.meta)


def test_the_validation_loss_is_the_mean_query_loss_of_tasks_of_their_own() -> None:
    trained = validated()
    batch = waves(9, seeded(1))  # the generator's first seed, plus one
    adapted = [trained.adapt((batch.support[0][i], batch.support[1][i])) for i in range(9)]
    loss = sum(float(curve(p, (batch.query[0][i], batch.query[1][i]))) for i, p in enumerate(adapted)) / 9
    assert trained.history["validation"].min() == pytest.approx(loss, rel=1e-12)
    given = validated(validation=batch)
    assert given.history.equals(trained.history)


def test_validation_does_not_change_the_training() -> None:
    with_it, without = validated(), validated(validation=None)
    assert with_it.history["loss"].equals(without.history["loss"])
    assert without.history["validation"].isna().all() and without.best_step == 24


def test_a_validation_loss_that_is_nan_is_never_the_best_and_hides_none_after_it() -> None:
    def judge(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return params["a"] ** 2 + torch.sqrt(x - params["a"])  # nan until a has come below x

    learner = maml(lambda p, x: (p["a"] - x) ** 2, {"a": torch.tensor(2.0, dtype=F64)}, lr=0.01, query_loss=judge)
    batch = Task(torch.zeros(2, dtype=F64), torch.full((2,), 9.0, dtype=F64))
    first_fine = Task(torch.zeros(2, dtype=F64), torch.tensor([9.0, 1.5], dtype=F64))  # the second is nan at first
    trained = meta_train(
        learner,
        lambda *_: batch,
        steps=20,
        tasks_per_step=2,
        lr=0.1,
        optimizer=torch.optim.Adam,
        validation=first_fine,
        validate_every=1,
        generator=seeded(),
    )
    judged = trained.history["validation"]
    assert judged.isna().iloc[0] and judged.notna().iloc[-1]
    assert trained.best_step == judged.idxmin() + 1


# When it goes wrong.


def spoiled(value: float, task: int) -> Callable[[Task], Task]:
    def change(batch: Task) -> Task:
        y = batch.query[1].clone()
        y[task, 2] = value
        return Task(batch.support, (batch.query[0], y))

    return change


@pytest.mark.parametrize(
    ("step", "task", "value"),
    [(1, 0, float("nan")), (1, 2, float("inf")), (7, 3, 1e150), (50, 1, float("nan")), (51, 2, 1e9), (73, 0, -1e9)],
)
def test_a_loss_out_of_bounds_stops_with_its_step_and_task(step: int, task: int, value: float) -> None:
    learner, sampler = maml(curve, PARAMS, lr=0.05), Counted(change={step: spoiled(value, task)})
    with pytest.raises(FloatingPointError, match=rf"at step {step} .* of task {task} \(of 4\) is ") as caught:
        meta_train(learner, sampler, steps=120, tasks_per_step=4, generator=seeded())
    kept = caught.value.trained
    assert isinstance(kept, Trained)
    assert kept.best_step == len(kept.history) == (50 if step > 50 else 0)
    truth = meta_train(learner, waves, steps=50, tasks_per_step=4, generator=seeded()).meta
    assert not differences(kept.meta, truth if step > 50 else learner.meta)


def test_what_is_kept_of_a_run_that_failed_at_once_can_be_looked_at() -> None:
    sampler = Counted(change={2: spoiled(float("nan"), 0)})
    with pytest.raises(FloatingPointError) as caught:
        meta_train(maml(curve, PARAMS, lr=0.05), sampler, steps=9, tasks_per_step=4, generator=seeded())
    assert "MAML" in str(caught.value.trained)
    assert caught.value.trained.plot().get_title() == "MAML"


def test_divergence_stops_at_the_first_step_past_a_million_times_the_first_loss() -> None:
    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return (params["a"] - x) ** 2

    learner = maml(loss, {"a": torch.tensor(1.0, dtype=F64)}, lr=0.1)
    batch = Task(torch.zeros(3, dtype=F64), torch.tensor([0.0, -1.0, 0.0], dtype=F64))
    settings = {"tasks_per_step": 3, "lr": 2.0, "optimizer": torch.optim.SGD}
    meta, losses = Meta({"a": torch.tensor(1.0, dtype=F64)}, {}), []
    for _ in range(200):
        each, gradient = learner.meta_gradient(meta, batch, 0)
        losses.append(each)
        meta = Meta({"a": meta.init["a"] - 2.0 * gradient.init["a"]}, {})
    bound = 1e6 * (1 + float(losses[0].mean()))
    step, task = next((s, t) for s, each in enumerate(losses, 1) for t in range(3) if float(each[t]) >= bound)
    assert 1 < step < 50
    with pytest.raises(
        FloatingPointError, match=rf"at step {step} the query loss of task {task} .* lower the outer lr"
    ):
        meta_train(learner, lambda *_: batch, steps=200, generator=seeded(), **settings)


def rooted(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return (params["a"] - 1) ** 2 + torch.sqrt(x * params["a"] ** 2)  # at x = 0: finite, its gradient nan


@pytest.mark.parametrize(
    ("step", "steps"), [(50, 90), (30, 30), (40, 90)], ids=["at a look", "at the end", "at a write"]
)
def test_a_gradient_that_is_nan_where_the_loss_is_not_neither_comes_back_nor_is_written(tmp_path, step, steps) -> None:
    def zero(batch: Task) -> Task:
        return Task(batch.support, batch.query * torch.tensor([1.0, 0.0], dtype=F64))

    def draw(number: int, generator: torch.Generator) -> Task:
        return Task(*(1 + torch.rand(2, number, generator=generator, dtype=F64)).unbind())

    learner = maml(lambda p, x: (p["a"] - x) ** 2, {"a": torch.tensor(0.5, dtype=F64)}, lr=0.1, query_loss=rooted)
    path = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=f"step {step}|step {step + 1}") as caught:
        sampler = Counted(draw, {step: zero})
        meta_train(
            learner, sampler, steps=steps, tasks_per_step=2, checkpoint=path, checkpoint_every=20, generator=seeded()
        )
    assert torch.isfinite(caught.value.trained.meta.init["a"])
    again = meta_train(learner, draw, steps=1, tasks_per_step=2, checkpoint=path, generator=seeded())
    assert torch.isfinite(again.meta.init["a"])


def test_the_sentence_names_the_checkpoint_that_is_left(tmp_path) -> None:
    sampler = Counted(change={33: spoiled(float("nan"), 0)})
    path = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=f"at step 33 .*{path}"):
        meta_train(
            maml(curve, PARAMS, lr=0.05), sampler, steps=60, checkpoint=path, checkpoint_every=10, generator=seeded()
        )
    left = meta_train(maml(curve, PARAMS, lr=0.05), waves, steps=30, checkpoint=path, generator=seeded())
    truth = meta_train(maml(curve, PARAMS, lr=0.05), waves, steps=30, generator=seeded())
    assert not differences(left.meta, truth.meta)
    assert left.history.equals(truth.history)


# The door.


def unequal(number: int, generator: torch.Generator) -> Task:
    batch = waves(number, generator)
    return Task((batch.support[0], batch.support[1][:-1]), batch.query)


def too_few(number: int, generator: torch.Generator) -> Task:
    return waves(number - 1, generator)


def bare(number: int, generator: torch.Generator) -> Tensor:
    return torch.rand(number, 3, generator=generator, dtype=F64)


def vector(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    return (params["v"] - data[1][:6].mean()) ** 2


def noisy(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    return curve(params, data) + torch.rand((), dtype=F64) * params["b"]


WRONG = {
    "no steps": ({"steps": 0}, ValueError, "steps is a positive integer; got 0"),
    "half a step": ({"steps": 2.5}, ValueError, "steps is a positive integer; got 2.5"),
    "no tasks": ({"tasks_per_step": 0}, ValueError, "tasks_per_step is a positive"),
    "no validation tasks": ({"validation": waves, "validation_tasks": 0}, ValueError, "validation_tasks is a positive"),
    "validate never": ({"validate_every": 0}, ValueError, "validate_every is a positive"),
    "write never": ({"checkpoint_every": -1}, ValueError, "checkpoint_every is a positive"),
    "learn nothing": ({"learn": ()}, ValueError, "leaves nothing to learn among init.w, init.v, init.b"),
    "learn the unknown": ({"learn": ("init.q*",)}, ValueError, r"'init.q\*' matches nothing; there are init.w"),
    "learn a word": ({"learn": "init.*"}, (TypeError, ValueError), r"init\.\*"),
    "no sampler": ({"tasks": waves(4, seeded())}, TypeError, "tasks is a sampler .*; got Task"),
    "too few tasks": ({"tasks": too_few}, ValueError, "asked for 4 tasks and returned 3"),
    "no pair": ({"tasks": bare}, TypeError, r"returns Task\(support, query\)"),
    "unequal tasks": ({"tasks": unequal}, ValueError, "padded"),
    "unequal validation": ({"validation": unequal}, ValueError, "validation.* padded"),
    "a vector": ({"learner": maml(vector, PARAMS)}, TypeError, r"returns a tensor of shape \(6,\)"),
    "a random loss": ({"learner": maml(noisy, PARAMS)}, ValueError, "draws random numbers .* draw them in the sampler"),
    "a negative rate": ({"lr": -1.0}, ValueError, "Invalid learning rate"),
    "a negative norm": ({"clip_norm": -1.0}, ValueError, "clip_norm"),
    "a norm of zero": ({"clip_norm": 0.0}, ValueError, "clip_norm"),
    "an optimizer with a closure": ({"optimizer": torch.optim.LBFGS}, (TypeError, ValueError), "LBFGS"),
    "a scheduler with a metric": (
        {"scheduler": lr_scheduler.ReduceLROnPlateau},
        (TypeError, ValueError),
        "ReduceLROnPlateau",
    ),
    "a strange precision": ({"precision": torch.float32}, ValueError, "precision"),
    "a missing folder": ({"checkpoint": "nowhere/run"}, FileNotFoundError, "the folder nowhere does not exist"),
    "a folder": ({"checkpoint": "."}, (ValueError, IsADirectoryError), "folder"),
    "no such device": ({"device": "abacus"}, ValueError, "'abacus' is no device that torch knows"),
    "an absent device": ({"device": "cuda:99"}, ValueError, "'cuda:99' is asked for, but torch sees"),
    "an absent kind": ({"device": "xpu"}, ValueError, "xpu"),
    "a device without numbers": ({"device": "meta"}, ValueError, "meta"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_door_says_what_is_wrong_before_anything_runs(what: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, kind, sentence = WRONG[what]
    call = {"learner": maml(curve, PARAMS), "tasks": waves, "steps": 3, "tasks_per_step": 4} | change
    call["tasks"] = Counted(call["tasks"]) if callable(call["tasks"]) else call["tasks"]
    generator = seeded(5)
    torch.rand(3, generator=generator)
    before, everywhere = generator.get_state(), torch.get_rng_state()
    with pytest.raises(kind, match=sentence):
        meta_train(call.pop("learner"), call.pop("tasks"), generator=generator, **call)
    assert torch.equal(generator.get_state(), before), "the generator has moved"
    assert torch.equal(torch.get_rng_state(), everywhere), "torch's own random numbers have moved"
    assert not list(tmp_path.iterdir())


def test_a_generator_that_is_none_is_named() -> None:
    for wrong in (None, 0):
        with pytest.raises((TypeError, ValueError), match="generator"):
            meta_train(maml(curve, PARAMS), waves, steps=3, generator=wrong)


def test_the_door_costs_one_batch_and_the_first_step_sees_the_first_tasks() -> None:
    sampler, plain = Counted(), seeded()
    seen = meta_train(maml(curve, PARAMS), sampler, steps=3, tasks_per_step=4, generator=seeded()).history
    assert sampler.calls == 1 + 3
    first = maml(curve, PARAMS).meta_gradient(Meta(PARAMS, {}), waves(4, plain), 0)[0].mean()
    assert seen["loss"].iloc[0] == pytest.approx(float(first), rel=1e-12)


# Machines.


def test_mixed_precision_trains_on_the_cpu() -> None:
    single = {name: value.float() for name, value in PARAMS.items()}
    learner = maml(curve, single, lr=0.05)

    def draw(number: int, generator: torch.Generator) -> Task:
        return Task(*(tuple(x.float() for x in part) for part in waves(number, generator)))

    settings = {"steps": 100, "tasks_per_step": 8, "lr": 0.02, "validation": draw, "validate_every": 50}
    full, half = (
        meta_train(learner, draw, precision=precision, generator=seeded(), **settings)
        for precision in (None, torch.bfloat16)
    )
    assert not torch.equal(full.meta.init["w"], half.meta.init["w"])  # something did run in half precision
    assert half.meta.init["w"].dtype == torch.float32
    best = {name: run.history["validation"].min() for name, run in (("full", full), ("half", half))}
    assert best["full"] < 0.5 * full.history["loss"].iloc[0]
    assert best["half"] == pytest.approx(best["full"], rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_run_gives_the_same_float64_numbers() -> None:
    learner = meta_sgd(curve, PARAMS, lr=0.05, steps=2)
    plain, compiled = (
        meta_train(learner, waves, steps=30, tasks_per_step=4, compile=compile, generator=seeded())
        for compile in (False, True)
    )
    close(plain.meta, compiled.meta, 1e-10)
    assert compiled.history["loss"].tolist() == pytest.approx(plain.history["loss"].tolist(), rel=1e-10)
    assert check_meta_gradient(curve, learner, waves(3, seeded()), how="compiled").ok


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_is_shown_on_a_terminal_alone(terminal: bool, monkeypatch) -> None:
    screen, clock = Screen(terminal), itertools.count(0.0, 5.0)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))  # each look at the clock is five seconds later
    meta_train(maml(curve, PARAMS), waves, steps=60, generator=seeded())
    shown = screen.getvalue()
    assert ("MAML" in shown and "60/60" in shown and "loss" in shown) if terminal else shown == ""


# On a GPU.

LEARNERS = {
    "maml": maml(curve, PARAMS, lr=0.05, steps=2),
    "maml, one step at a time": maml(curve, PARAMS, lr=0.05, steps=3, adjoint=True),
    "fomaml": fomaml(curve, PARAMS, lr=0.05, steps=2),
    "reptile": reptile(curve, PARAMS, lr=0.05, steps=3),
    "meta_sgd": meta_sgd(curve, PARAMS, lr=0.05),
    "maml_plus_plus": maml_plus_plus(curve, PARAMS, lr=0.05, steps=3, multi_step_until=10),
    "imaml": imaml(curve, PARAMS, lr=0.05, steps=50, strength=2.0),
}


def on(device: str, nest: object, dtype: torch.dtype = F64) -> object:
    return torch.utils._pytree.tree_map(lambda leaf: leaf.to(device, dtype), nest)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", LEARNERS)
def test_the_meta_gradient_on_cuda_is_that_on_the_cpu(name: str) -> None:
    learner, batch = LEARNERS[name], waves(6, seeded())
    losses, gradient = learner.meta_gradient(learner.meta, batch, 3)
    for _ in range(2):  # as it is recorded, and as it is replayed
        there = learner.meta_gradient(on("cuda", learner.meta), on("cuda", batch), 3)
        torch.testing.assert_close(there[0].cpu(), losses, rtol=1e-10, atol=1e-12)
        close(on("cpu", there[1]), gradient, 1e-9)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.SGD])
def test_meta_train_learns_on_cuda(precision: torch.dtype | None, make: type) -> None:
    single = {name: value.float() for name, value in PARAMS.items()}

    def draw(number: int, generator: torch.Generator) -> Task:
        return on("cpu", waves(number, generator), torch.float32)

    trained = meta_train(
        maml(curve, single, lr=0.05),
        draw,
        steps=200,
        tasks_per_step=16,
        lr=0.05,
        optimizer=make,
        validation=draw,
        validate_every=100,
        device="cuda",
        precision=precision,
        generator=seeded(),
    )
    assert trained.meta.init["w"].device.type == "cuda" and trained.meta.init["w"].dtype == torch.float32
    assert trained.history["validation"].min() < 0.7 * trained.history["loss"].iloc[0]


@pytest.mark.gpu
@GPU
def test_a_run_on_cuda_is_that_on_the_cpu_and_goes_on_bit_by_bit(tmp_path) -> None:
    learner = maml(curve, PARAMS, lr=0.05)
    settings = {"tasks_per_step": 4, "validation": waves, "validate_every": 10}
    here = meta_train(learner, waves, steps=40, generator=seeded(), **settings)
    there = meta_train(learner, waves, steps=40, device="cuda", generator=seeded(), **settings)
    close(on("cpu", there.meta), here.meta, 1e-7)
    path = tmp_path / "run"
    for steps in (13, 40):
        again = meta_train(learner, waves, steps=steps, device="cuda", checkpoint=path, generator=seeded(), **settings)
    assert not differences(again.meta, there.meta)
    assert again.history.equals(there.history) and again.best_step == there.best_step

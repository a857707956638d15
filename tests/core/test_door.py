"""What is wrong with a loss or a batch is said at the door, in words; what is merely unusual comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from scimeta.core.door import check_batch, check_loss, idle_parameters
from scimeta.core.learners import anil, imaml, maml, meta_sgd, reptile
from scimeta.core.tasks import Task
from scimeta.models.functional import functional


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PARAMS = {"w": normal(2, 3, seed=1), "head": normal(3, seed=3)}


def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    x, y = d
    return ((torch.tanh(x @ p["w"]) @ p["head"] - y) ** 2).mean()


def batch() -> Task:
    return Task((normal(4, 5, 2), normal(4, 5)), (normal(4, 6, 2, seed=1), normal(4, 6, seed=1)))


def plus(extra: Callable[[dict[str, Tensor], Tensor], Any]) -> Callable:
    """Return the loss after it did something more with its parameters and its inputs."""

    def function(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        more = extra(p, d[0])
        return loss(p, d) + (more if isinstance(more, Tensor) else 0.0)

    return function


def branching(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return p["head"].sum() if x.sum() > 0 else p["w"].sum()


def cell(kind: str) -> Callable:
    module = getattr(nn, kind)(2, 3)
    return lambda p, x: (lambda y: y[0] if isinstance(y, tuple) else y)(module(x)).sum() * p["head"].sum()


def attended(p: dict[str, Tensor], x: Tensor) -> Tensor:
    q = (x @ p["w"])[None, None]
    return F.scaled_dot_product_attention(q, q, q).sum()


# Losses of one task that must not come in: (error, what the message says).
READS = r"reads a tensor's value \(an `if` on a tensor, \.item\(\) or float\(\)\); .* use torch\.where"
WRITES = r"writes in place \(aten::.*\) into its parameters or data; make a new tensor"
LOSSES: dict[str, tuple[Callable, type[Exception], str]] = {
    "a vector": (
        lambda p, d: (d[0] @ p["w"] @ p["head"] - d[1]) ** 2,
        TypeError,
        r"returns a tensor of shape \(5,\); a loss returns one number for one task: end it with \.mean\(\) or \.sum",
    ),
    "a vector of one": (lambda p, d: loss(p, d)[None], TypeError, r"shape \(1,\)"),
    "a tuple": (lambda p, d: (loss(p, d), 1), TypeError, "returns tuple; a loss returns a scalar tensor"),
    "None": (lambda p, d: None, TypeError, "returns NoneType"),
    "a number": (lambda p, d: 1.0, TypeError, "returns float"),
    "a whole number": (
        lambda p, d: (d[0] @ p["w"]).argmax(),
        TypeError,
        "returns torch.int64; a loss returns a floating",
    ),
    "a complex number": (lambda p, d: loss(p, d) * 1j, TypeError, "returns torch.complex64"),
    "not a number": (lambda p, d: (p["w"].sum() - 1e9).log() * p["head"].sum(), ValueError, "is nan at the start"),
    "infinity": (lambda p, d: loss(p, d) / 0, ValueError, "is inf at the start"),
    "no gradient at all": (
        lambda p, d: loss({n: v.detach() for n, v in p.items()}, d),
        ValueError,
        "has no gradient by any parameter; find where it detaches them",
    ),
    "a branch": (plus(branching), ValueError, READS),
    "item": (plus(lambda p, x: p["head"].sum() * x.sum().item()), ValueError, READS),
    "float": (plus(lambda p, x: p["head"].sum() * float(x.sum())), ValueError, READS),
    "int": (plus(lambda p, x: p["head"][int(x.argmax()) % 3]), ValueError, READS),
    "a while loop": (plus(lambda p, x: next(k for k in range(99) if k > x.sum())), ValueError, READS),
    "tolist": (plus(lambda p, x: p["head"].sum() * sum(x[0].tolist())), ValueError, "works on one task, but not under"),
    "numpy": (
        plus(lambda p, x: p["head"].sum() * float(x.numpy().sum())),
        ValueError,
        "works on one task, but not under",
    ),
    "dropout": (
        plus(lambda p, x: torch.nn.functional.dropout(0.0 * x).sum() * p["head"].sum()),
        ValueError,
        r"draws random numbers \(dropout, randn_like, rsample\).*; draw them in the sampler",
    ),
    "a mask as an index": (
        plus(lambda p, x: x[x > 0].sum() * p["head"].sum()),
        ValueError,
        "picks values by a boolean mask",
    ),
    "nonzero": (plus(lambda p, x: x.nonzero().sum() * p["head"].sum()), ValueError, "or by nonzero or unique"),
    "a write into a parameter": (plus(lambda p, x: p["head"].add_(1.0).sum()), ValueError, WRITES),
    "a write into a row of a parameter": (plus(lambda p, x: p["w"][0].zero_().sum()), ValueError, WRITES),
    "an assignment to a parameter": (plus(lambda p, x: p["w"].__setitem__(0, 1.0)), ValueError, WRITES),
    "a write into the data": (plus(lambda p, x: x.mul_(2.0).sum()), ValueError, WRITES),
    "an assignment to the data": (plus(lambda p, x: x.__setitem__((0, 0), 0.0)), ValueError, WRITES),
    "a write into a view of the data": (plus(lambda p, x: x.t()[0].clamp_(0.0).sum()), ValueError, WRITES),
    "a write by out": (plus(lambda p, x: torch.mul(x, 2.0, out=x).sum()), ValueError, WRITES),
    "a write by a list": (plus(lambda p, x: torch._foreach_add_([x], 1.0)), ValueError, WRITES),
    "layer norm": (
        plus(lambda p, x: F.layer_norm(x @ p["w"], (3,)).sum()),
        ValueError,
        r"uses aten::native_layer_norm, whose second derivative is not right here; LayerNorm: make it with scimeta\.mo",
    ),
    "group norm": (
        plus(lambda p, x: F.group_norm((x @ p["w"])[..., None], 3).sum()),
        ValueError,
        "aten::native_group_norm.*GroupNorm: make it with",
    ),
    "batch norm": (
        plus(lambda p, x: F.batch_norm(x @ p["w"], None, None, training=True).sum()),
        ValueError,
        "BatchNorm or InstanceNorm: make it with",
    ),
    "instance norm": (
        plus(lambda p, x: F.instance_norm((x @ p["w"]).T[None]).sum()),
        ValueError,
        "BatchNorm or InstanceNorm",
    ),
    "attention": (plus(attended), ValueError, "fused attention: make it with"),
    "GRU": (
        plus(cell("GRU")),
        ValueError,
        "uses torch's gru, which cannot be batched over tasks; write the cell in elementary",
    ),
    "LSTM": (plus(cell("LSTM")), ValueError, "uses torch's lstm"),
    "RNN": (plus(cell("RNN")), ValueError, "uses torch's rnn_tanh"),
    "GRU cell": (plus(cell("GRUCell")), ValueError, "uses torch's gru_cell"),
    "LSTM cell": (plus(cell("LSTMCell")), ValueError, "uses torch's lstm_cell"),
}


@pytest.mark.parametrize(("wrong", "error", "message"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_cannot_be_right_is_refused_in_words(wrong, error, message):
    given = batch()
    before = pytree.tree_map(torch.clone, given)
    with pytest.raises(error, match=message) as caught:
        check_batch(maml(wrong, PARAMS), given)
    assert str(caught.value).startswith("meta_train: the loss")
    for one, other in zip(pytree.tree_leaves(given), pytree.tree_leaves(before), strict=True):
        assert one.equal(other), "the door itself must leave the data as they were"


def test_the_query_loss_is_tried_as_well():
    learner = maml(loss, PARAMS, query_loss=lambda p, d: loss(p, d)[None])
    with pytest.raises(TypeError, match=r"^meta_train: the loss of one task's query returns a tensor of shape \(1,\)"):
        check_batch(learner, batch())


def test_the_door_speaks_in_the_name_of_whom_it_guards():
    with pytest.raises(TypeError, match=r"^evaluate: the loss of one task's support returns NoneType"):
        check_batch(maml(lambda p, d: None, PARAMS), batch(), "evaluate")


def test_an_error_of_the_loss_itself_comes_through_as_it_is_on_one_task():
    def misshapen(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return (d[0] @ p["head"]).mean()

    with pytest.raises(RuntimeError, match=r"size mismatch, got input \(5\), mat \(5x2\), vec \(3\)"):
        check_batch(maml(misshapen, PARAMS), batch())
    with pytest.raises(KeyError, match="tail"):
        check_batch(maml(lambda p, d: p["tail"].sum(), PARAMS), batch())


@pytest.mark.parametrize("what", ["function", "module"])
def test_a_compiled_loss_is_refused(what):
    compiled = torch.compile(loss) if what == "function" else torch.compile(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="is already compiled, and would lose its second derivative; pass the plain"):
        check_batch(maml(compiled, PARAMS), batch())


class TestGradients:
    def test_parameters_that_no_loss_depends_on_are_named_and_stay(self):
        learner = maml(loss, {**PARAMS, "spare": normal(2), "idle": normal(1)})
        with pytest.warns(UserWarning, match="neither loss depends on spare, idle, which stay as they are"):
            check_batch(learner, batch())
        assert idle_parameters(learner, batch()) == {"spare", "idle"}

    def test_a_detached_fast_parameter_is_named(self):
        learner = maml(lambda p, d: loss({**p, "w": p["w"].detach()}, d), PARAMS)
        with pytest.warns(UserWarning, match=r"neither loss depends on w, .* find where the loss detaches them"):
            check_batch(learner, batch())

    def test_fast_parameters_of_which_none_has_a_gradient_are_refused(self):
        learner = anil(loss, {**PARAMS, "spare": normal(2)}, fast=("spare",))
        with pytest.raises(ValueError, match="no gradient by any of the fast parameters spare; choose others"):
            check_batch(learner, batch())

    def test_a_fast_parameter_of_the_query_alone_is_named(self):
        params = {**PARAMS, "scale": torch.tensor(2.0)}
        learner = maml(loss, params, query_loss=lambda p, d: loss(p, d) * p["scale"])
        with pytest.warns(UserWarning, match="support loss does not depend on scale, which no inner step moves"):
            check_batch(learner, batch())

    def test_a_long_list_of_names_is_cut(self):
        spare = {f"s{i}": normal(1) for i in range(11)}
        with pytest.warns(UserWarning, match="on s0, s1, s2, s3, s4, s5, s6, s7 and 3 more, which"):
            check_batch(maml(loss, {**PARAMS, **spare}), batch())

    def test_a_slow_parameter_of_the_query_alone_or_the_support_alone_comes_in(self):
        params = {**PARAMS, "scale": torch.tensor(2.0)}
        scaled = lambda p, d: loss(p, d) * p["scale"]  # noqa: E731
        for inner, outer in ((loss, scaled), (scaled, loss)):
            check_batch(anil(inner, params, fast=("head",), query_loss=outer), batch())

    def test_check_loss_returns_the_names_that_have_a_gradient(self):
        params = {**PARAMS, "spare": normal(2)}
        one = (normal(5, 2), normal(5))
        assert check_loss(loss, params, one, "here") == {"w", "head"}


UNEQUAL = Task((normal(4, 5, 2), normal(3, 5)), batch().query)
BATCHES: dict[str, tuple[Any, type[Exception], str]] = {
    "a list of tasks": (
        [batch(), batch()],
        TypeError,
        r"a sampler returns Task\(support, query\) with a leading task axis; got list",
    ),
    "None": (None, TypeError, r"Task\(support, query\).*got NoneType"),
    "a tensor": (normal(4, 2), TypeError, r"got torch\.Tensor"),
    "three parts": ((normal(4), normal(4), normal(4)), TypeError, "got tuple"),
    "tasks of unequal number": (
        UNEQUAL,
        ValueError,
        r"the first axis is the tasks' and differs: support\[0\] has 4, support\[1\] has 3, query\[0\] has 4, "
        r"query\[1\] has 4\. Tasks of unequal size are padded",
    ),
    "another number in the query": (
        Task(batch().support, (normal(2, 6, 2), normal(2, 6))),
        ValueError,
        r"query\[0\] has 2",
    ),
    "tasks of unequal size": (
        Task(([normal(5, 2), normal(4, 2)], normal(4, 5)), batch().query),
        ValueError,
        r"support\[0\]\[0\] has 5, support\[0\]\[1\] has 4",
    ),
    "an empty support": (
        Task((normal(4, 0, 2), normal(4, 0)), batch().query),
        ValueError,
        r"support\[0\] is empty, of shape \(4, 0, 2\); a task needs data",
    ),
    "an empty query": (Task(batch().support, (normal(4, 0, 2), normal(4, 0))), ValueError, r"query\[0\] is empty"),
    "no tasks": (
        Task((normal(0, 5, 2), normal(0, 5)), batch().query),
        ValueError,
        r"support\[0\] is empty, of shape \(0, 5, 2\)",
    ),
    "no support": (Task((), batch().query), ValueError, "the support holds no tensor"),
    "no query": (Task(batch().support, {}), ValueError, "the query holds no tensor"),
    "an array": (
        Task((normal(4, 5, 2), np.ones((4, 5))), batch().query),
        TypeError,
        r"support\[1\] is numpy\.ndarray; everything in a batch is a tensor .*torch\.as_tensor",
    ),
    "a number": (Task((normal(4, 5, 2), 3.0), batch().query), TypeError, r"support\[1\] is float"),
    "a word": (Task({"x": normal(4), "name": "a"}, batch().query), TypeError, r"support\['name'\] is str"),
    "None within": (Task((normal(4, 5, 2), None), batch().query), TypeError, r"support\[1\] is NoneType"),
    "one number for all tasks": (
        Task((normal(4, 5, 2), torch.tensor(1.0)), batch().query),
        ValueError,
        r"support\[1\] is a single number; it needs a leading task axis",
    ),
    "nan": (
        Task((normal(4, 5, 2), torch.full((4, 5), torch.nan)), batch().query),
        ValueError,
        r"support\[1\] has values that are not finite",
    ),
    "one infinity in the query": (
        Task(batch().support, (normal(4, 6, 2), normal(4, 6).index_fill(1, torch.tensor([2]), torch.inf))),
        ValueError,
        r"query\[1\] has values",
    ),
}


@pytest.mark.parametrize(("wrong", "error", "message"), BATCHES.values(), ids=BATCHES)
def test_a_batch_that_is_none_is_refused_in_words(wrong, error, message):
    with pytest.raises(error, match=f"^meta_train: .*{message}"):
        check_batch(maml(loss, PARAMS), wrong)


class Rays(NamedTuple):
    x: Tensor
    y: Tensor


def filled(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    """Writes into a tensor of its own that already depends on the task."""
    h = (d[0] @ p["w"]).clone()
    h[:, 0] = torch.tanh(h[:, 0])
    h += 1.0
    return ((h @ p["head"] - d[1]) ** 2).mean()


def half(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    return loss(p, d).double()


def looped(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    total = torch.zeros(())
    for row, target in zip(d[0][:2], d[1][:2], strict=True):
        total = total + (torch.tanh(row @ p["w"]) @ p["head"] - target) ** 2
    return total / 2


def solved(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    features = torch.tanh(d[0] @ p["w"])
    gram = features.T @ features + torch.eye(3)
    return ((features @ torch.linalg.solve(gram, features.T @ d[1]) - d[1]) ** 2).sum() + (p["head"] ** 2).sum()


def noted(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    assert d[0].shape[-1] == 2 and d[0].dtype == torch.float32  # shapes and types may be looked at
    return loss(p, d) * (1.0 if d[0].dim() == 2 else 0.0)


INNER = functional(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1)))

LEGAL: dict[str, tuple[Callable, dict[str, Tensor], Any]] = {
    "as it is": (loss, PARAMS, batch()),
    "a plain pair": (loss, PARAMS, (batch().support, batch().query)),
    "dictionaries": (lambda p, d: loss(p, (d["x"], d["y"])), PARAMS, Task(*({"x": x, "y": y} for x, y in batch()))),
    "named tuples": (lambda p, d: loss(p, (d.x, d.y)), PARAMS, Task(*(Rays(x, y) for x, y in batch()))),
    "nests": (lambda p, d: loss(p, (d[0]["x"][0], d[1])), PARAMS, Task(*(({"x": [x]}, y) for x, y in batch()))),
    "a tensor alone": (
        lambda p, x: ((x @ p["w"]) ** 2).sum() + p["head"].sum(),
        PARAMS,
        Task(normal(4, 5, 2), normal(4, 2)),
    ),
    "one number a task": (
        lambda p, x: (p["head"] - x).square().sum() + p["w"].sum(),
        PARAMS,
        Task(normal(4), normal(4)),
    ),
    "labels": (
        lambda p, d: F.cross_entropy(d[0] @ p["w"] * p["head"], d[1]),
        PARAMS,
        Task(*((x, torch.zeros(y.shape, dtype=torch.long)) for x, y in batch())),
    ),
    "masks": (
        lambda p, d: torch.where(d[1], (d[0] @ p["w"] @ p["head"]) ** 2, 0.0).sum(),
        PARAMS,
        Task(*((x, y > 0) for x, y in batch())),
    ),
    "zero weights": (lambda p, d: loss(p, (d[0], d[1] * 0.0)), PARAMS, batch()),
    "one task": (loss, PARAMS, pytree.tree_map(lambda t: t[:1], batch())),
    "writes into its own tensors": (filled, PARAMS, batch()),
    "a wider result": (half, PARAMS, batch()),
    "a loop": (looped, PARAMS, batch()),
    "a solve": (solved, PARAMS, batch()),
    "a look at shapes": (noted, PARAMS, batch()),
    "attention that torch takes apart itself": (
        lambda p, d: (F.scaled_dot_product_attention(*[(d[0] @ p["w"])[None]] * 3) @ p["head"]).square().sum(),
        PARAMS,
        batch(),
    ),
    "a module": (lambda p, d: ((INNER[1](p, d[0])[:, 0] - d[1]) ** 2).mean(), INNER[0], batch()),
    "another data layout in the query": (
        lambda p, d: loss(p, (d["x"], d["y"]) if isinstance(d, dict) else d),
        PARAMS,
        Task(batch().support, dict(zip("xy", batch().query, strict=True))),
    ),
    "a complex signal": (
        lambda p, d: (d[0] * torch.polar(p["head"].sum(), p["w"].sum())).abs().square().sum(),
        PARAMS,
        Task((torch.complex(normal(4, 3), normal(4, 3)),), (torch.complex(normal(4, 3), normal(4, 3)),)),
    ),
    "tasks with gaps between them": (loss, PARAMS, pytree.tree_map(lambda t: t.repeat_interleave(2, 0)[::2], batch())),
}


@pytest.mark.parametrize(("unusual", "params", "given"), LEGAL.values(), ids=LEGAL)
def test_what_is_merely_unusual_comes_in(unusual, params, given):
    for learner in (meta_sgd(unusual, params), reptile(unusual, params, steps=1)):
        task = check_batch(learner, given)
        assert isinstance(task, Task)
        for one, other in zip(pytree.tree_leaves(tuple(task)), pytree.tree_leaves(tuple(given)), strict=True):
            assert one is other
        losses, gradient = learner.meta_gradient(learner.meta, task, 0)
        assert torch.isfinite(losses).all() and all(torch.isfinite(g).all() for g in pytree.tree_leaves(gradient))


def test_an_implicit_learner_comes_in():
    check_batch(imaml(loss, PARAMS, steps=2), batch())


def test_the_door_leaves_parameters_and_data_as_they_were():
    learner, given = maml(filled, PARAMS), batch()
    before = pytree.tree_map(torch.clone, (learner.meta, tuple(given)))
    check_batch(learner, given)
    after = pytree.tree_leaves((learner.meta, tuple(given)))
    assert all(
        one.equal(other) and not one.requires_grad for one, other in zip(after, pytree.tree_leaves(before), strict=True)
    )

"""The check passes what is right and catches what is wrong, in float64, whatever type came in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from scimeta.core import check
from scimeta.core.check import GradientCheck, check_meta_gradient
from scimeta.core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.meta_gradient import displacement, through_adaptation
from scimeta.core.rules import Meta, adam, clipped, momentum, preconditioned
from scimeta.core.tasks import Task
from scimeta.models.functional import functional

F64 = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


PARAMS = {"w": normal(2, 3, seed=1), "head": normal(3, seed=3)}


def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    x, y = d
    return ((torch.tanh(x @ p["w"]) @ p["head"] - y) ** 2).mean()


def tasks(number: int = 2, dtype: torch.dtype = F64) -> Task:
    x, y = normal(2, number, 4, 2, dtype=dtype), normal(2, number, 4, seed=1, dtype=dtype)
    return Task((x[0], y[0]), (x[1], y[1]))


RIGHT: dict[str, MetaLearner] = {
    "MAML": maml(loss, PARAMS, lr=0.1, steps=2),
    "MAML, adjoint": maml(loss, PARAMS, lr=0.1, steps=3, adjoint=True),
    "MAML, chunks": maml(loss, PARAMS, lr=0.1, chunk_size=1),
    "MAML, momentum": maml(loss, PARAMS, rule=momentum(0.1), steps=3),
    "MAML, adam": maml(loss, PARAMS, rule=adam(0.1, eps=1e-3), steps=2),
    "MAML, clipped": maml(loss, PARAMS, rule=clipped(momentum(0.1), 0.3), steps=2),
    "MAML, preconditioned": maml(loss, PARAMS, rule=preconditioned(PARAMS, 0.1), steps=2),
    "MAML, another query loss": maml(loss, PARAMS, lr=0.1, query_loss=lambda p, d: loss(p, d) + p["head"].exp().sum()),
    "FOMAML": fomaml(loss, PARAMS, lr=0.1, steps=2),
    "Meta-SGD": meta_sgd(loss, PARAMS, lr=0.1, steps=2),
    "ANIL": anil(loss, PARAMS, fast=("head",), lr=0.1, steps=2),
    "MAML++": maml_plus_plus(loss, PARAMS, lr=0.1, steps=2, multi_step_until=9, first_order_until=9),
    "Reptile": reptile(loss, PARAMS, lr=0.1, steps=2),
    "implicit MAML": imaml(loss, PARAMS, lr=0.2, steps=120, strength=3.0),
    "implicit MAML, ANIL": imaml(loss, PARAMS, fast=("head",), lr=0.2, steps=120, strength=3.0),
}


@pytest.mark.parametrize("learner", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("how", ["eager", "recorded"])
def test_every_learner_is_right(learner, how):
    result = check_meta_gradient(loss, learner, tasks(), how=how)
    assert result.ok, str(result)
    assert result.learner == learner.name and result.estimate == learner.estimate
    assert result.names == tuple(f"{part}.{n}" for part in Meta._fields for n in getattr(learner.meta, part))


def with_gradient(learner: MetaLearner, change: Callable) -> MetaLearner:
    """Return the learner with its losses and gradient passed through a change."""
    return learner._replace(meta_gradient=lambda meta, task, step=0: change(*learner.meta_gradient(meta, task, step)))


def scaled(factor: float) -> Callable:
    return lambda losses, gradient: (losses, pytree.tree_map(lambda g: factor * g, gradient))


MAML, META_SGD = maml(loss, PARAMS, lr=0.1, steps=2), meta_sgd(loss, PARAMS, lr=0.1, steps=2)
WRONG: dict[str, MetaLearner] = {
    "inner gradients without a graph": MAML._replace(meta_gradient=fomaml(loss, PARAMS, lr=0.1, steps=2).meta_gradient),
    "another rate": MAML._replace(meta_gradient=maml(loss, PARAMS, lr=0.101, steps=2).meta_gradient),
    "a step too few": MAML._replace(meta_gradient=maml(loss, PARAMS, lr=0.1, steps=1).meta_gradient),
    "the sum over tasks for their mean": with_gradient(MAML, scaled(2.0)),
    "the other sign": with_gradient(MAML, scaled(-1.0)),
    "one part in 100,000": with_gradient(MAML, scaled(1 + 1e-5)),
    "nothing": with_gradient(MAML, scaled(0.0)),
    "not a number": with_gradient(MAML, scaled(torch.nan)),
    "support and query swapped": MAML._replace(
        meta_gradient=lambda meta, task, step=0: MAML.meta_gradient(meta, Task(task.query, task.support), step)
    ),
    "the first task alone": MAML._replace(
        meta_gradient=lambda meta, task, step=0: MAML.meta_gradient(meta, pytree.tree_map(lambda t: t[:1], task), step)
    ),
    "one tensor forgotten": with_gradient(
        MAML, lambda v, g: (v, g._replace(init={**g.init, "head": 0 * g.init["head"]}))
    ),
    "rates that are not learned": with_gradient(
        META_SGD, lambda v, g: (v, g._replace(rule=pytree.tree_map(torch.zeros_like, g.rule)))
    ),
    "a fast subset that is not": anil(loss, PARAMS, fast=("head",), lr=0.1)._replace(
        meta_gradient=maml(loss, PARAMS, lr=0.1).meta_gradient
    ),
    "another query loss": MAML._replace(
        meta_gradient=through_adaptation(MAML.adapt, lambda p, d: loss(p, d) + 1e-3 * p["head"].sum())
    ),
    "first order with another rate": fomaml(loss, PARAMS, lr=0.1)._replace(
        meta_gradient=fomaml(loss, PARAMS, lr=0.2).meta_gradient
    ),
    "a displacement of another loss": reptile(loss, PARAMS, lr=0.1)._replace(
        meta_gradient=displacement(reptile(lambda p, d: 2 * loss(p, d), PARAMS, lr=0.1).adapt, loss)
    ),
    "an inner loop that has not converged": imaml(loss, PARAMS, lr=0.1, steps=3, strength=3.0),
    "a solver that has not converged": imaml(loss, PARAMS, lr=0.2, steps=120, strength=0.5, cg_steps=1),
}


@pytest.mark.parametrize("learner", WRONG.values(), ids=WRONG)
def test_every_mistake_is_caught(learner):
    result = check_meta_gradient(loss, learner, tasks(), how="eager")
    assert not result.ok and "WRONG" in str(result)


def test_one_part_in_a_thousand_million_is_rounding():
    assert check_meta_gradient(loss, with_gradient(MAML, scaled(1 + 1e-9)), tasks(), how="eager").ok


def normed(kind: str) -> Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], Tensor]:
    def native(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        h = d[0] @ p["w"]
        if kind == "layer":
            h = F.layer_norm(h, (3,), p["scale"], p["shift"])
        elif kind == "batch":
            h = F.batch_norm(h, None, None, p["scale"], p["shift"], training=True)
        else:
            h = F.instance_norm(h.T[None], weight=p["scale"], bias=p["shift"])[0].T
        return ((torch.tanh(h) @ p["head"] - d[1]) ** 2).mean()

    return native


@pytest.mark.parametrize("kind", ["layer", "batch", "instance"])
def test_torchs_own_norms_are_caught_where_the_door_is_left_open(kind, monkeypatch):
    """Their second derivative under vmap is wrong in torch 2.13; once it is right, the door may let them in."""
    monkeypatch.setattr(check, "check_batch", lambda learner, batch, where: Task(*batch))
    params = {**PARAMS, "scale": normal(3, seed=5), "shift": normal(3, seed=6)}
    learner = maml(normed(kind), params, lr=0.1, steps=2)
    assert not check_meta_gradient(normed(kind), learner, tasks(), how="eager").ok


@pytest.mark.parametrize("kind", ["layer", "batch", "instance"])
def test_torchs_own_norms_do_not_come_through_the_door(kind):
    params = {**PARAMS, "scale": normal(3, seed=5), "shift": normal(3, seed=6)}
    with pytest.raises(ValueError, match=r"Norm: make it with scimeta\.models\.functional"):
        check_meta_gradient(normed(kind), maml(normed(kind), params), tasks())


def test_a_module_made_functional_is_checked_against_the_module_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()
    params, apply = functional(net)

    def ours(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return ((apply(p, d[0])[:, 0] - d[1]) ** 2).mean()

    def theirs(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return ((torch.func.functional_call(net, p, (d[0],))[:, 0] - d[1]) ** 2).mean()

    learner = maml(ours, params, lr=0.1, steps=2)
    assert check_meta_gradient(theirs, learner, tasks(), how="eager").ok
    assert not check_meta_gradient(lambda p, d: theirs(p, d) * 1.01, learner, tasks(), how="eager").ok


def test_a_parameter_whose_gradient_is_zero_but_for_rounding_is_right():
    """A bias in front of a normalisation cancels: relative to its own 1e-17 everything would be wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()
    params, apply = functional(net)
    learner = maml(lambda p, d: ((apply(p, d[0])[:, 0] - d[1]) ** 2).mean(), params, lr=0.1, steps=2)
    result = check_meta_gradient(learner.query_loss, learner, tasks(), how="eager")
    assert result.norm[result.names.index("init.0.bias")] < 1e-12
    assert result.ok, str(result)


def test_a_parameter_whose_gradient_is_zero_is_right():
    """At a saddle in b, where the loss is even."""
    even = lambda p, x: ((p["a"] - x) ** 2).sum() + torch.cos(p["b"])  # noqa: E731
    learner = maml(even, {"a": normal(2), "b": torch.tensor(0.0, dtype=F64)}, lr=0.1)
    assert check_meta_gradient(even, learner, Task(normal(2, 2), normal(2, 2, seed=1)), how="eager").ok


def test_a_small_gradient_beside_a_large_one_is_still_judged():
    def two(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return ((p["a"] - x) ** 2).sum() + 1e-3 * ((p["b"] * x) ** 2).sum()

    learner = maml(two, {"a": normal(2), "b": normal(2, seed=1)}, lr=0.1)
    batch = Task(normal(2, 2), normal(2, 2, seed=1))
    assert check_meta_gradient(two, learner, batch, how="eager").ok
    wrong = with_gradient(learner, lambda v, g: (v, g._replace(init={**g.init, "b": 1.01 * g.init["b"]})))
    assert not check_meta_gradient(two, wrong, batch, how="eager").ok


def test_float32_is_lifted_and_the_learner_stays_as_it_was():
    params = {name: value.float() for name, value in PARAMS.items()}
    learner = meta_sgd(loss, params, lr=0.1, steps=2)
    batch = tasks(dtype=torch.float32)
    result = check_meta_gradient(loss, learner, batch, how="eager")
    assert result.ok and max(result.plain) < 1e-12
    assert all(leaf.dtype == torch.float32 for leaf in pytree.tree_leaves((learner.meta, tuple(batch))))
    same = check_meta_gradient(loss, maml_plus_plus(loss, params, steps=3, multi_step_until=5), batch, how="eager")
    assert same.ok


def test_whole_numbers_are_not_lifted():
    def labels(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(d[0] @ p["w"], d[1])

    batch = Task(
        (normal(2, 4, 2), torch.tensor([[0, 1, 2, 0], [2, 1, 0, 0]])),
        (normal(2, 4, 2, seed=1), torch.ones(2, 4).long()),
    )
    assert check_meta_gradient(labels, maml(labels, {"w": PARAMS["w"]}, lr=0.5, steps=2), batch, how="eager").ok


def test_the_seed_chooses_the_directions_and_nothing_else():
    one, two, other = (check_meta_gradient(loss, MAML, tasks(), how="eager", seed=s) for s in (1, 1, 2))
    assert one == two
    assert other.finite != one.finite and (other.norm, other.plain) == (one.norm, one.plain)


def test_what_is_wrong_with_the_batch_is_said_in_its_own_name():
    with pytest.raises(ValueError, match=r"^check_meta_gradient: support\[0\] is empty"):
        check_meta_gradient(loss, MAML, Task((normal(2, 0, 2), normal(2, 0)), tasks().query))


class TestTable:
    def test_it_has_a_verdict_and_a_row_for_every_tensor(self):
        text = str(check_meta_gradient(loss, META_SGD, tasks(), how="eager"))
        head, columns, *rows = text.splitlines()
        assert head == "Meta-gradient of Meta-SGD (exact): right"
        assert columns.split() == ["parameter", "norm", "plain", "loop", "differences"]
        assert [row.split()[0] for row in rows] == ["init.w", "init.head", "rule.w", "rule.head"]
        assert len({len(row) for row in (columns, *rows)}) == 1
        assert all(float(cell) >= 0.0 for row in rows for cell in row.split()[1:])

    @pytest.mark.parametrize(
        ("learner", "note"),
        [
            (RIGHT["FOMAML"], "(first_order): right; differences show what the second-order part would add"),
            (RIGHT["Reptile"], "(displacement): right; a displacement is no derivative"),
            (WRONG["nothing"], "(exact): WRONG"),
        ],
    )
    def test_the_verdict_says_what_was_promised(self, learner, note):
        assert str(check_meta_gradient(loss, learner, tasks(), how="eager")).splitlines()[0].endswith(note)

    @pytest.mark.parametrize(
        ("estimate", "plain", "finite", "ok"),
        [
            ("exact", 1e-7, 1e-7, True),
            ("exact", 1e-5, 1e-7, False),
            ("exact", 1e-7, 1e-5, False),
            ("exact", torch.nan, 1e-7, False),
            ("implicit", 1e-7, 1e-5, False),
            ("first_order", 1e-7, 0.3, True),
            ("first_order", 1e-5, 0.3, False),
            ("displacement", 1e-7, torch.nan, True),
            ("displacement", 1e-5, torch.nan, False),
        ],
    )
    def test_only_what_the_estimate_promises_is_judged(self, estimate, plain, finite, ok):
        assert GradientCheck("X", estimate, ("init.a",), (1.0,), (plain,), (finite,)).ok is ok

    def test_first_order_differences_show_the_second_order_part(self):
        assert max(check_meta_gradient(loss, RIGHT["FOMAML"], tasks(), how="eager").finite) > 1e-3

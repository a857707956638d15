"""A recorded function and its way back, cut in two, are what torch.func.vjp gives, whatever the graph holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core import linearize
from scimeta.core.linearize import record_pull
from scimeta.core.recording import execution
from scimeta.core.tasks import over_tasks
from tests.core.problems import close, normal


def network(p: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Any]:
    hidden = torch.tanh(x @ p["w"])
    return {"out": (hidden @ p["v"], hidden.sum(-1)), "loss": ((hidden @ p["v"] - target) ** 2).mean()}


def diagonals(p: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """Its way back writes in place: a diagonal's derivative is put into zeros."""
    gram = over_tasks(lambda row: row[:, None] * row)(p @ x)
    return (gram.diagonal(dim1=-2, dim2=-1).log1p() + target).sum(-1) + gram.sum((1, 2))


def passed_on(p: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Results that are an argument, and one that two results share."""
    product = p * x
    return p, product, product


def branches(p: Tensor, x: Tensor, target: Tensor) -> Tensor:
    clipped = torch.where(p > 0, p, 0.1 * p).clamp(max=0.5)
    return torch.cat([clipped.chunk(2)[0], p[1:]]).sum() * torch.stack([x.sum(), target]).prod()


PROBLEMS: dict[str, tuple[Callable, tuple, tuple]] = {
    "network": (network, ({"w": normal(3, 4), "v": normal(4, seed=1)}, normal(5, 3, seed=2)), (normal(5, seed=3),)),
    "diagonals": (diagonals, (normal(3, 4), normal(4, 2, seed=1)), (normal(2, seed=2),)),
    "passed on": (passed_on, (normal(4), normal(4, seed=1)), (normal(4, seed=2),)),
    "branches": (branches, (normal(4), normal(4, seed=1)), (normal(1, seed=2)[0],)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_value_and_pull_are_those_of_vjp_with_no_warning(name):
    function, primals, others = PROBLEMS[name]
    primals = pytree.tree_map(torch.abs, primals)
    run = record_pull(function)
    for shift in (0.0, 0.3):  # the second call is a replay
        moved = pytree.tree_map(lambda x, by=shift: x + by, primals)
        expected, vjp = torch.func.vjp(lambda *p: function(*p, *others), *moved)
        slopes = pytree.tree_map(lambda x: torch.cos(7 * x), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value, pull = run(moved, others)
        close(value, expected)
        close(pull(slopes), vjp(slopes))
        close(pull(slopes), vjp(slopes))  # nothing that was kept has changed


def test_pulls_may_come_in_any_order():
    run = record_pull(lambda x: torch.sin(x) * x)
    points = [normal(3, seed=seed) for seed in range(3)]
    found = [run((x,)) for x in points]
    for x, (_, pull) in reversed(list(zip(points, found, strict=True))):
        close(pull(torch.ones_like(x))[0], torch.cos(x) * x + torch.sin(x))


def test_eager_is_vjp_itself():
    run, (function, primals, others) = record_pull(network), PROBLEMS["network"]
    with execution("eager"):
        value, _ = run(primals, others)
    close(value, function(*primals, *others))


def test_inside_a_transform_it_is_differentiated_like_any_function():
    run, x = record_pull(torch.sin), normal(3)
    twice = torch.func.grad(lambda x: run((x,))[1](torch.ones_like(x))[0].sum())(x)
    close(twice, -torch.sin(x))


def test_each_shape_is_recorded_once_and_too_many_run_eagerly(monkeypatch):
    made, halves = [], linearize._halves
    monkeypatch.setattr(linearize, "_halves", lambda *a: (made.append(1), halves(*a))[1])
    monkeypatch.setattr(linearize, "_MOST", 2)
    run = record_pull(torch.exp)
    for size in (1, 2, 3, 1, 2, 3):
        x = normal(size)
        close(run((x,))[1](torch.ones_like(x))[0], x.exp())
    assert len(made) == 2


def test_what_cannot_be_recorded_runs_eagerly_with_a_warning():
    def branching(x: Tensor) -> Tensor:
        return x.sum() if x.sum() > 0 else -x.sum()

    with pytest.warns(UserWarning, match="branching runs eagerly, since recording it failed"):
        value, pull = record_pull(branching)((-torch.ones(2),))
    assert value == 2 and pull(torch.tensor(1.0))[0].tolist() == [-1.0, -1.0]

"""Embeddings' padding rows are constants, as in a plain loop of torch.autograd over the module itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scimeta import check_meta_gradient, functional
from scimeta.core.embedding import embedding
from scimeta.core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.recording import execution
from scimeta.core.rule_learners import evolved_optimizer, learned_optimizer
from scimeta.core.rules import learned_rates, sgd
from scimeta.core.tasks import Task, over_tasks
from scimeta.core.train import meta_train
from tests.core.problems import F64, close, normal, seeded

ROWS, HELD = 6, 2
X, Y = torch.randint(0, ROWS, (3, 4, 5), generator=seeded()), normal(3, 4, 1, seed=1)
BATCH = Task((X, Y), (X, Y))
PARAMS = {"w": normal(ROWS, 2, seed=2), "head": normal(10, 1, seed=3) / 3}  # the padding row is not zero

TABLE = nn.Embedding(ROWS, 2, padding_idx=HELD)

LOOKED_UP: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "functional": lambda x, w: F.embedding(x, w, padding_idx=HELD),
    "from the end": lambda x, w: F.embedding(x, w, HELD - ROWS),
    "sparse": lambda x, w: F.embedding(x, w, padding_idx=HELD, sparse=True),
    "torch.embedding": lambda x, w: torch.embedding(w, x, HELD),
    "a module": lambda x, w: torch.func.functional_call(TABLE, {"weight": w}, (x,)),
}


def with_lookup(look_up: Callable[[Tensor, Tensor], Tensor]) -> Callable[[dict[str, Tensor], tuple], Tensor]:
    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        x, y = data
        return ((torch.tanh(look_up(x, params["w"]).flatten(1)) @ params["head"] - y) ** 2).mean()

    return loss


LEARNERS: dict[str, Callable[[Callable], MetaLearner]] = {
    "MAML": lambda loss: maml(loss, PARAMS, lr=0.1, steps=2),
    "MAML, step by step": lambda loss: maml(loss, PARAMS, lr=0.1, steps=3, adjoint=True),
    "FOMAML": lambda loss: fomaml(loss, PARAMS, lr=0.1, steps=2),
    "Meta-SGD": lambda loss: meta_sgd(loss, PARAMS, lr=0.1),
    "MAML++": lambda loss: maml_plus_plus(loss, PARAMS, lr=0.1, steps=2, multi_step_until=9),
    "ANIL, the table is slow": lambda loss: anil(loss, PARAMS, lr=0.1, steps=2, fast=("head",)),
    "ANIL, the table is fast": lambda loss: anil(loss, PARAMS, lr=0.1, steps=2, fast=("w",)),
    "Reptile": lambda loss: reptile(loss, PARAMS, lr=0.1, steps=2),
    "implicit MAML": lambda loss: imaml(loss, PARAMS, lr=0.05, steps=400, strength=6.0, cg_steps=40),
    "learned optimiser": lambda loss: learned_optimizer(loss, PARAMS, rule=learned_rates(PARAMS, 0.1), steps=3),
}


@pytest.mark.parametrize("how", ["eager", "recorded"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_holds_the_padding_row_and_moves_the_others_as_a_plain_loop_does(name: str, how: str) -> None:
    loss = with_lookup(LOOKED_UP["functional"])
    check = check_meta_gradient(loss, LEARNERS[name](loss), BATCH, how=how)
    assert check.ok, check
    learner = LEARNERS[name](loss)
    with execution(how):
        _, gradient = learner.meta_gradient(learner.meta, BATCH, 0)
    assert (gradient.init["w"][HELD] == 0).all() and (gradient.init["w"].abs().sum(1) > 0).sum() == ROWS - 1


@pytest.mark.parametrize("name", LOOKED_UP)
def test_however_the_table_is_read_the_padding_row_is_held(name: str) -> None:
    loss = with_lookup(LOOKED_UP[name])
    for make in (maml, fomaml):
        check = check_meta_gradient(loss, make(loss, PARAMS, lr=0.1, steps=2), BATCH)
        assert check.ok, check


def test_evolution_leaves_the_padding_row_where_it_is() -> None:
    loss = with_lookup(LOOKED_UP["functional"])
    learner = evolved_optimizer(loss, PARAMS, rule=learned_rates(PARAMS, 0.1), steps=4, window=2)
    _, gradient = learner.meta_gradient(learner.meta, BATCH, 0)
    assert (gradient.init["w"] == 0).all() and (gradient.rule["w"] != 0).any()  # over="rule.*"


@pytest.mark.parametrize("padding_idx", [0, 3, -1])
def test_a_module_with_a_padding_row_has_the_meta_gradient_of_the_module_itself(padding_idx: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 3, padding_idx=padding_idx), nn.Flatten(), nn.Tanh(), nn.Linear(12, 1)).double()
    net[0].weight.data += 0.3
    params, apply = functional(net)
    x, y = torch.randint(0, 5, (2, 3, 4), generator=seeded()), normal(2, 3, 1)

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return ((apply(params, data[0]) - data[1]) ** 2).mean()

    def plain(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return ((torch.func.functional_call(net, params, (data[0],)) - data[1]) ** 2).mean()

    for make, first_order in ((maml, False), (fomaml, True)):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        total = torch.zeros((), dtype=F64)
        for task in range(2):
            one = x[task], y[task]
            grads = torch.autograd.grad(plain(leaves, one), list(leaves.values()), create_graph=not first_order)
            moved = {name: p - 0.1 * grad for (name, p), grad in zip(leaves.items(), grads, strict=True)}
            total = total + plain(moved, one) / 2
        truth = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
        assert (truth["0.weight"][padding_idx] == 0).all()
        learner = make(loss, params, lr=0.1)
        for how in ("eager", "recorded"):
            with execution(how):
                close(learner.meta_gradient(learner.meta, Task((x, y), (x, y)), 0)[1].init, truth)
        assert check_meta_gradient(plain, learner, Task((x, y), (x, y))).ok


def test_meta_training_leaves_the_padding_row_as_it_is_bit_by_bit() -> None:
    def draw(number: int, generator: torch.Generator) -> Task:
        x = torch.randint(0, ROWS, (number, 4, 5), generator=generator)
        y = torch.randn(number, 4, 1, generator=generator, dtype=F64)
        return Task((x, y), (x, y))

    learner = maml(with_lookup(LOOKED_UP["functional"]), PARAMS, lr=0.1)
    trained = meta_train(learner, draw, steps=30, generator=seeded())
    moved = (trained.meta.init["w"] != PARAMS["w"]).any(1)
    assert moved.tolist() == [row != HELD for row in range(ROWS)]


def test_forward_mode_and_a_hessian_hold_the_row_too() -> None:
    along = torch.zeros(ROWS, 2, dtype=F64)
    along[HELD] = 1.0
    look_up = lambda w: torch.sin(embedding(X[0], w, HELD)).sum()  # noqa: E731
    assert torch.func.jvp(look_up, (PARAMS["w"],), (along,))[1] == 0
    hessian = torch.func.hessian(look_up)(PARAMS["w"])
    assert (hessian[HELD] == 0).all() and (hessian[:, :, HELD] == 0).all() and (hessian != 0).any()


def test_without_a_padding_row_every_row_moves_and_values_are_torchs() -> None:
    assert torch.equal(embedding(X, PARAMS["w"], HELD), F.embedding(X, PARAMS["w"]))
    gradient = torch.func.grad(lambda w: over_tasks(lambda x: F.embedding(x, w).sum())(X).sum())(PARAMS["w"])
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_norm": 1.0}, "max_norm rescales rows of its table in place"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq=True has a gradient that is no derivative"),
        ({"padding_idx": ROWS}, f"padding_idx is one of the {ROWS} rows, or counts from the end; got {ROWS}"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name_with_and_without_the_door(arguments: dict, words: str) -> None:
    loss = with_lookup(lambda x, w: F.embedding(x, w, **arguments))
    learner = maml(loss, PARAMS)
    with pytest.raises(ValueError, match=words), execution("eager"):
        learner.meta_gradient(learner.meta, BATCH, 0)
    with pytest.raises(ValueError, match=words):
        meta_train(learner, lambda *_: BATCH, steps=1, tasks_per_step=3, generator=seeded())


def test_the_operation_itself_which_nothing_can_swap_is_refused_at_the_door() -> None:
    loss = with_lookup(lambda x, w: torch.ops.aten.embedding(w, x, HELD))
    with pytest.raises(ValueError, match="aten::embedding, whose padding row would move"):
        meta_train(maml(loss, PARAMS), lambda *_: BATCH, steps=1, tasks_per_step=3, generator=seeded())


def test_a_rule_that_pulls_every_row_is_the_users_word() -> None:
    decayed = sgd(0.1)._replace(
        update=lambda _, grads, state, params: ({n: 0.9 * p - 0.1 * grads[n] for n, p in params.items()}, state)
    )
    loss = with_lookup(LOOKED_UP["functional"])
    learner = maml(loss, PARAMS, rule=decayed)
    assert check_meta_gradient(loss, learner, BATCH).ok

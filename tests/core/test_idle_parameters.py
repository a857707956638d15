"""Parameters on which no loss depends are held by every learner, and change nothing for the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scimeta import Task, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, meta_train, reptile
from scimeta.core.learners import MetaLearner
from scimeta.core.tasks import Params
from tests.core.problems import normal

USED = {"w": normal(2, 3, seed=1) / 2, "head": normal(3, 1, seed=2) / 2}
WITH = {"aux": normal(4, seed=3), **USED}  # first, so that a place that is counted wrongly shows

LEARNERS: dict[str, Callable[[Params], MetaLearner]] = {
    "MAML": lambda p: maml(loss, p, lr=0.1, steps=2),
    "MAML, step by step": lambda p: maml(loss, p, lr=0.1, steps=3, adjoint=True),
    "FOMAML": lambda p: fomaml(loss, p, lr=0.1, steps=2),
    "Meta-SGD": lambda p: meta_sgd(loss, p, lr=0.1),
    "MAML++": lambda p: maml_plus_plus(loss, p, lr=0.1, steps=2, multi_step_until=9),
    "ANIL": lambda p: anil(loss, p, lr=0.1, steps=2, fast=("head",)),
    "Reptile": lambda p: reptile(loss, p, lr=0.1, steps=2),
    "implicit MAML": lambda p: imaml(loss, p, lr=0.05, steps=50, strength=6.0, cg_steps=20),
}


def loss(p: Params, d: tuple[Tensor, Tensor]) -> Tensor:
    return ((torch.tanh(d[0] @ p["w"]) @ p["head"] - d[1]) ** 2).mean()


def draw(count: int, generator: torch.Generator) -> Task:
    x = torch.randn(count, 6, 2, generator=generator, dtype=torch.float64)
    y = x.sum(-1, keepdim=True) * torch.randn(count, 1, 1, generator=generator, dtype=torch.float64)
    return Task((x, y), (x, y))


def trained(learner: MetaLearner) -> Params:
    """Return what five steps of AdamW, whose weight decay moves all that it is given, make of the parameters."""
    made = meta_train(
        learner,
        draw,
        steps=5,
        tasks_per_step=2,
        optimizer=lambda leaves, lr: torch.optim.AdamW(leaves, lr, weight_decay=0.5),
        lr=0.05,
        generator=torch.Generator().manual_seed(0),
    )
    return made.meta.init


@pytest.mark.parametrize("name", LEARNERS)
def test_they_stay_and_the_others_learn_as_without_them(name: str):
    with pytest.warns(UserWarning, match="neither loss depends on aux, which stay as they are"):
        found = trained(LEARNERS[name](WITH))
    wanted = trained(LEARNERS[name](USED))
    assert torch.equal(found["aux"], WITH["aux"])
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-13)
        assert not torch.equal(value, USED[key])


def test_where_all_that_is_learned_is_idle_that_is_said():
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="leaves nothing to learn"):
        meta_train(maml(loss, WITH), draw, steps=1, learn=("init.aux",), generator=torch.Generator().manual_seed(0))

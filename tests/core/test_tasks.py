"""One batch axis over tasks: the same numbers as a loop, in one call or in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scimeta.core.tasks import Task, over_tasks


def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return ((torch.tanh(x @ params["weight"]) + params["bias"] - y) ** 2).mean()


@pytest.fixture
def tasks() -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Return eleven tasks: their own parameters and data, float64."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"weight": drawn(11, 3), "bias": drawn(11)}, (drawn(11, 5, 3), drawn(11, 5))


def one(tree: dict[str, Tensor] | tuple[Tensor, ...], i: int) -> dict[str, Tensor] | tuple[Tensor, ...]:
    return {n: t[i] for n, t in tree.items()} if isinstance(tree, dict) else tuple(t[i] for t in tree)


def test_a_batch_gives_the_numbers_of_a_python_loop(tasks):
    params, data = tasks
    batch = over_tasks(loss)(params, data)
    loop = torch.stack([loss(one(params, i), one(data, i)) for i in range(11)])
    torch.testing.assert_close(batch, loop, rtol=1e-14, atol=0.0)


def test_gradients_inside_a_batch_are_those_of_a_python_loop(tasks):
    params, data = tasks
    batch = over_tasks(torch.func.grad(loss))(params, data)
    for i in range(11):
        alone = torch.func.grad(loss)(one(params, i), one(data, i))
        torch.testing.assert_close(one(batch, i), alone, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_a_chunked_batch_equals_the_whole(tasks, chunk_size):
    whole = over_tasks(torch.func.grad(loss))(*tasks)
    chunked = over_tasks(torch.func.grad(loss), chunk_size=chunk_size)(*tasks)
    torch.testing.assert_close(chunked, whole, rtol=1e-14, atol=1e-16)


def test_an_argument_without_a_task_axis_is_shared_by_all_tasks(tasks):
    params, data = tasks
    shared = one(params, 0)
    batch = over_tasks(loss, (None, 0))(shared, data)
    loop = torch.stack([loss(shared, one(data, i)) for i in range(11)])
    torch.testing.assert_close(batch, loop, rtol=1e-14, atol=0.0)


def test_a_batch_of_tasks_is_a_task_with_a_leading_axis(tasks):
    params, data = tasks
    batch = over_tasks(lambda p, task: loss(p, task.support) - loss(p, task.query))(params, Task(data, data))
    assert batch.shape == (11,) and (batch == 0.0).all()


def test_tasks_of_unequal_number_are_refused(tasks):
    params, data = tasks
    with pytest.raises(ValueError, match="size"):
        over_tasks(loss)(params, tuple(t[:7] for t in data))

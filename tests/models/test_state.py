"""What a module holds stays as it is: a forward function that changes it is refused by name, or the change undone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from scimeta import Task, functional, maml, meta_train
from scimeta.core.recording import execution
from tests.core.problems import normal, seeded

X, Y = normal(2, 6, 5, dtype=torch.float32), normal(2, 6, 2, seed=1, dtype=torch.float32)


class Stateful(nn.Module):
    """A linear layer with all kinds of state beside it; ``what`` is its forward function."""

    def __init__(self, what: Callable[[Stateful, Tensor], Tensor]) -> None:
        super().__init__()
        self.line, self.what = nn.Linear(5, 2), what
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.table, self.cache, self.calls = torch.zeros(5), None, 0
        self.past, self.named, self.last, self.inner = [], {}, deque(maxlen=2), SimpleNamespace(beta=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self, x)


def moving_mean(s: Stateful, x: Tensor) -> Tensor:
    s.mean = 0.9 * s.mean + 0.1 * x.mean(0).detach()
    return s.line(x - s.mean)


def moving_mean_in_place(s: Stateful, x: Tensor) -> Tensor:
    s.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
    return s.line(x - s.mean)


def one_element(s: Stateful, x: Tensor) -> Tensor:
    s.mean[0] = 1.0
    return s.line(x - s.mean)


def moving_mean_by_data(s: Stateful, x: Tensor) -> Tensor:
    s.mean.data.mul_(0.9).add_(0.1 * x.detach().mean(0))
    return s.line(x - s.mean)


def clamped_weight(s: Stateful, x: Tensor) -> Tensor:
    s.line.weight.data.clamp_(-0.1, 0.1)
    return s.line(x)


def buffer_counter(s: Stateful, x: Tensor) -> Tensor:
    s.count += 1
    return s.line(x)  # even where it is only counted


def attribute(s: Stateful, x: Tensor) -> Tensor:
    s.table = s.table + x.mean(0)
    return s.line(x - s.table)


def shrinking_weight(s: Stateful, x: Tensor) -> Tensor:
    s.line.weight = nn.Parameter(0.9 * s.line.weight.detach())
    return s.line(x)


def annealed(s: Stateful, x: Tensor) -> Tensor:
    s.calls += 1
    return s.line(x) / s.calls


def list_of_past(s: Stateful, x: Tensor) -> Tensor:
    s.past.append(x)
    return s.line(sum(s.past))


def dictionary(s: Stateful, x: Tensor) -> Tensor:
    s.named["calls"] = s.named.get("calls", 0) + 1
    return s.line(x) * s.named["calls"]


def queue(s: Stateful, x: Tensor) -> Tensor:
    s.last.append(1)
    return s.line(x) * len(s.last)


def plain_object(s: Stateful, x: Tensor) -> Tensor:
    s.inner.beta *= 0.9
    return s.inner.beta * s.line(x)


REFUSED = {
    moving_mean: "mean",
    moving_mean_in_place: "mean",
    one_element: "mean",
    moving_mean_by_data: "mean",
    clamped_weight: r"line\.weight",
    buffer_counter: "count",
    attribute: "table",
    shrinking_weight: r"line\.weight",
    annealed: "calls",
    list_of_past: "past",
    dictionary: r"named\.calls",
    queue: "last",
    plain_object: r"inner\.beta",
}


@pytest.mark.parametrize("what", REFUSED, ids=lambda what: what.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_that_changes_is_refused_by_name_at_every_call(what: Callable, dtype: torch.dtype) -> None:
    params, apply = functional(nn.Sequential(nn.Identity(), Stateful(what)))
    params = {name: value.to(dtype) for name, value in params.items()}
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"forward function of Sequential changes self\.1\.{REFUSED[what]}, and"):
            apply(params, X[0].to(dtype))


@pytest.mark.parametrize("what", REFUSED, ids=lambda what: what.__name__)
def test_meta_train_says_the_same_and_the_module_stays_whole(what: Callable) -> None:
    module = Stateful(what)
    params, apply = functional(module)
    learner = maml(lambda p, d: ((apply(p, d[0]) - d[1]) ** 2).mean(), params, steps=12)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(2):  # and no tensor of torch.func's is left behind
        words = rf"forward function of Stateful changes self\.{REFUSED[what]}, and|writes in place"
        with pytest.raises(ValueError, match=words):
            meta_train(learner, lambda *_: Task((X, Y), (X, Y)), steps=1, tasks_per_step=2, generator=seeded())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.calls == 0 and not module.past and not module.named and not module.last


@pytest.mark.parametrize("what", [moving_mean, attribute], ids=lambda what: what.__name__)
def test_a_tensor_that_is_replaced_is_refused_under_transforms_too(what: Callable) -> None:
    params, apply = functional(Stateful(what))
    learner = maml(lambda p, d: ((apply(p, d[0]) - d[1]) ** 2).mean(), params)
    with execution("eager"), pytest.raises(ValueError, match="forward function of Stateful changes self"):
        learner.meta_gradient(learner.meta, Task((X, Y), (X, Y)), 0)
    with pytest.raises(ValueError, match="forward function of Stateful changes self"):  # not an INTERNAL ASSERT
        apply(params, X[0])


def counted(s: Stateful, x: Tensor) -> Tensor:
    s.calls += 1
    return s.line(x)


def cached_by_shape(s: Stateful, x: Tensor) -> Tensor:
    if s.cache is None or s.cache.shape != x.shape:
        s.cache = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).expand(x.shape)
    return s.line(x * s.cache)


def kept_to_be_looked_at(s: Stateful, x: Tensor) -> Tensor:
    s.weights = x.softmax(-1)
    return s.line(s.weights)


def size_noted(s: Stateful, x: Tensor) -> Tensor:
    s.size = len(x)
    return s.line(x) / s.size


@pytest.mark.parametrize(
    "what", [counted, cached_by_shape, kept_to_be_looked_at, size_noted], ids=lambda what: what.__name__
)
def test_what_no_result_depends_on_is_undone_and_leaves_no_trace(what: Callable) -> None:
    module = Stateful(what)
    params, apply = functional(module)
    learner = maml(lambda p, d: ((apply(p, d[0]) - d[1]) ** 2).mean(), params)
    expected = module(X[0])
    for how in ("eager", "recorded"):
        torch.testing.assert_close(apply(params, X[0]), expected)
        with execution(how):
            learner.meta_gradient(learner.meta, Task((X, Y), (X, Y)), 0)
    torch.testing.assert_close(apply(params, X[0]), expected)
    assert torch.equal(apply(params, X[0, :3]), apply(params, X[0, :3]))


def test_an_error_half_way_leaves_the_state_as_it_was() -> None:
    def broken(s: Stateful, x: Tensor) -> Tensor:
        s.mean, s.calls = s.mean + 1, s.calls + 1
        if len(x) > 3:
            raise KeyError("too long")
        return s.line(x - s.mean)

    params, apply = functional(Stateful(broken))
    for _ in range(2):
        with pytest.raises(KeyError):
            apply(params, X[0])
    with pytest.raises(ValueError, match=r"changes self\.calls, self\.mean, and"):
        apply(params, X[0, :3])


def test_assigning_to_data_is_refused() -> None:
    def assigned(s: Stateful, x: Tensor) -> Tensor:
        s.mean.data = s.mean + 1
        return s.line(x - s.mean)

    params, apply = functional(Stateful(assigned))
    with pytest.raises(ValueError, match=r"assigns to a tensor's \.data"):
        apply(params, X[0])


def test_a_module_that_only_reads_its_state_is_taken() -> None:
    module = Stateful(lambda s, x: s.line(x - s.mean) + s.table[:2] + len(s.past) + s.inner.beta)
    module.mean += 1.0
    params, apply = functional(module)
    torch.testing.assert_close(apply(params, X[0]), module(X[0]))
    with torch.inference_mode():
        torch.testing.assert_close(apply(params, X[0]), module(X[0]))


def test_weights_that_a_hook_makes_anew_at_each_call_are_no_state() -> None:
    module = nn.utils.spectral_norm(nn.Linear(5, 2)).eval()
    params, apply = functional(module)
    torch.testing.assert_close(apply(params, X[0]), module(X[0]))

"""A recorded function is the function: same values, types, shapes, randomness, and errors; only quicker."""

from __future__ import annotations

import gc
import random
import shutil
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.recording import execution, record
from scimeta.core.tasks import over_tasks
from tests.core.problems import F64, normal, seeds

F32, BF16 = torch.float32, torch.bfloat16


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def assert_equal(found: Any, expected: Any, rounding: float = 1e-12) -> None:
    """Assert that two nests have the same structure, and their tensors the same type, shape and values."""
    found, spec = pytree.tree_flatten(found)
    expected, expected_spec = pytree.tree_flatten(expected)
    assert spec == expected_spec
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if not isinstance(one, Tensor):
            assert one == other
            continue
        assert one.dtype == other.dtype and one.shape == other.shape
        eps = {F32: 1e-5, BF16: 2e-2}.get(one.dtype, rounding)
        torch.testing.assert_close(one, other, rtol=eps, atol=eps, equal_nan=True)


def again(leaf: Any) -> Any:
    """Return a tensor of the same shape and layout with the same memory read backwards."""
    if not isinstance(leaf, Tensor) or leaf.numel() == 0:
        return leaf
    length = 1 + sum((size - 1) * stride for size, stride in zip(leaf.shape, leaf.stride(), strict=True))
    backwards = leaf.as_strided((length,), (1,), leaf.storage_offset()).flip(0)
    return backwards.as_strided(leaf.shape, leaf.stride())


def net(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w"] + p["b"]) @ p["v"]


def squares(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    return ((net(p, d[0]) - d[1]) ** 2).mean()


def conv(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    h = F.max_pool2d(F.relu(F.conv2d(d[0], p["k"], p["b"], padding=1)), 2)
    return F.cross_entropy(h.flatten(1) @ p["w"], d[1])


def normed(p: dict[str, Tensor], x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    h = centred / (centred * centred).mean(0).add(1e-5).sqrt() * p["scale"] + p["shift"]
    return (h**3).sum()


def attention(p: dict[str, Tensor], x: Tensor) -> Tensor:
    q, k = x @ p["q"], x @ p["k"]
    return ((q @ k.mT / 2.0).softmax(-1) @ x).square().sum()


def indexed(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    table, which = p["table"], d[0]
    return (table[which] * d[1]).sum() + table[0, 1:].prod() + table.gather(1, which[:, None]).sum() ** 2


def branches(p: dict[str, Tensor], x: Tensor) -> Tensor:
    a = p["a"]
    return torch.where(x > a, torch.sqrt(x * x + 1.0), a * x).sum() + torch.clamp(a * x, -1.0, 0.5).sum()


def einsums(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.einsum("ni,ij,nj->n", x, p["m"], x).exp().clamp(max=9.0).sum() + torch.einsum("ii->", p["m"])


def reductions(p: dict[str, Tensor], x: Tensor) -> Tensor:
    y = x * p["a"]
    return (
        y.cumsum(0).var()
        + y.amax(1).sum()
        + y.logsumexp(0).mean()
        + y.std(0).prod()
        + y.norm()
        + y.abs().sum()
        + y.min()
    )


def powers(p: dict[str, Tensor], x: Tensor) -> Tensor:
    z = x.abs() + 0.5
    return (
        (z ** p["a"]).sum()
        + (p["a"] ** 3 + p["a"] ** -1 + 2.0 ** p["a"] + p["a"] ** 0.5) * z.log().sum()
        + z.rsqrt().sum()
    )


def waves(p: dict[str, Tensor], x: Tensor) -> Tensor:
    z = torch.complex(torch.cos(p["a"] * x), torch.sin(p["a"] * x))
    return torch.fft.fft(z).abs().square().sum() + (z * z.conj()).real.sum() + z.angle().sum()


def written(p: dict[str, Tensor], x: Tensor) -> Tensor:
    y = torch.zeros_like(x) + 0.0 * x
    y[1:] = p["a"] * x[:-1]
    y[0] += x[0] ** 2
    return (y * y).sum() * p["a"]


def constants(p: dict[str, Tensor], x: Tensor) -> Tensor:
    grid = torch.linspace(0.0, 1.0, 5, dtype=x.dtype)
    return (p["a"] * grid * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=x.dtype)).sum() * x.sum() + x @ CLOSED @ x


def solved(p: dict[str, Tensor], x: Tensor) -> Tensor:
    matrix = p["m"] @ p["m"].mT + torch.eye(3, dtype=x.dtype)
    return torch.linalg.solve(matrix, x[0]).sum() + torch.logdet(matrix)


CLOSED = normal(5, 5, seed=99)

# One-task losses and their arguments, (parameters, data).
LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor], Any]] = {
    "network": (squares, {"w": normal(2, 8), "b": normal(8), "v": normal(8, 1)}, (normal(5, 2), normal(5, 1, seed=1))),
    "convolution": (
        conv,
        {"k": normal(3, 1, 3, 3) / 2, "b": normal(3), "w": normal(27, 4)},
        (normal(5, 1, 6, 6), torch.tensor([0, 3, 1, 1, 2])),
    ),
    "normalization": (normed, {"scale": normal(3), "shift": normal(3, seed=2)}, normal(6, 3)),
    "attention": (attention, {"q": normal(3, 2), "k": normal(3, 2, seed=3)}, normal(4, 3)),
    "indexing": (indexed, {"table": normal(5, 3)}, (torch.tensor([0, 2, 1, 1, 2]), normal(5, 3, seed=4))),
    "where": (branches, {"a": normal(4)}, normal(6, 4, seed=5)),
    "einsum": (einsums, {"m": normal(3, 3) / 4}, normal(4, 3)),
    "reductions": (reductions, {"a": normal(3)}, normal(5, 3, seed=6)),
    "powers": (powers, {"a": torch.tensor(1.5, dtype=F64)}, normal(4)),
    "complex numbers": (waves, {"a": torch.tensor(1.5, dtype=F64)}, normal(4)),
    "writes in place": (written, {"a": torch.tensor(1.5, dtype=F64)}, normal(4)),
    "constants": (constants, {"a": normal(5)}, normal(5, seed=7)),
    "linear algebra": (solved, {"m": normal(3, 3)}, normal(2, 3)),
    "labels": (
        lambda p, d: F.nll_loss((d[0] @ p["w"] / p["heat"].exp()).log_softmax(-1), d[1], weight=CLOSED[0, :4].exp()),
        {"w": normal(3, 4), "heat": normal(4)},
        (normal(6, 3), torch.tensor([0, 1, 2, 3, 3, 0])),
    ),
}


def batched(data: Any, tasks: int = 3) -> Any:
    """Return a batch of tasks: the data itself, and scaled (labels: shifted) versions of it."""

    def several(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            return torch.stack([leaf * (1.0 + 0.3 * task) for task in range(tasks)])
        return torch.stack([leaf.roll(task) for task in range(tasks)])

    return pytree.tree_map(several, data)


def meta_gradient(loss: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return the gradient, around a vmap, through one inner step of gradient descent."""

    def mean(params: dict[str, Tensor], batch: Any) -> Tensor:
        def one(data: Any) -> Tensor:
            slope = torch.func.grad(loss)(params, data)
            return loss({name: value - 0.05 * slope[name] for name, value in params.items()}, data)

        return over_tasks(one)(batch).mean()

    return torch.func.grad_and_value(mean)


@pytest.mark.parametrize("order", ["value", "gradient", "batch of gradients", "gradient of a batch of gradients"])
@pytest.mark.parametrize(("loss", "params", "data"), LOSSES.values(), ids=LOSSES)
def test_a_loss_and_its_derivatives_are_the_same_when_recorded(loss, params, data, order, recordings):
    if order == "gradient of a batch of gradients":
        function, args = meta_gradient(loss), (params, batched(data))
    elif order == "batch of gradients":
        function, args = over_tasks(torch.func.grad(loss), (None, 0)), (params, batched(data))
    else:
        function, args = {"value": loss, "gradient": torch.func.grad(loss)}[order], (params, data)
    run = record(lambda *args: function(*args))
    others = pytree.tree_map(again, args)
    for given in (args, others, args):
        assert_equal(run(*given), function(*given), rounding=1e-11)
    assert len(recordings) == 1


RESULTS: dict[str, tuple[Callable[..., Any], tuple]] = {
    "a nest": (lambda d: {"a": (d.x + 1, [d.y]), "b": Pair(d.x, d.y * 2)}, (Pair(normal(2), normal(3)),)),
    "a constant in the arguments": (lambda x, c: x * c[0] + c[1]["two"], (normal(2), (3, {"two": 0.5}))),
    "a word in the arguments": (lambda x, how: x.exp() if how == "exp" else x, (normal(2), "exp")),
    "None in the arguments": (lambda x, w: x if w is None else x * w, (normal(2), None)),
    "constants in the results": (lambda x: (x * 2, 3, None, "word", {"flag": True}), (normal(2),)),
    "its own argument": (lambda x: x, (normal(2),)),
    "a view of its argument": (lambda x: (x.t(), x[0], x.reshape(-1)), (normal(2, 3),)),
    "one result twice": (lambda x: (lambda y: (y, y))(x + 1), (normal(2),)),
    "a result that depends on nothing": (lambda x: (torch.ones(2), torch.tensor([1, 2]), x), (normal(2),)),
    "no results": (lambda x: (), (normal(2),)),
    "integers": (lambda k: (k + 1, k // 2, k % 3, k / 2, k**2, k.float() * 0.5), (torch.arange(6),)),
    "integers to a floating power": (lambda k: (k**1.0, k**0.0, k * 1.0), (torch.arange(6),)),
    "booleans": (lambda m: (m & ~m, m.sum(), m * 1, m * 1.0, m.any()), (torch.tensor([True, False]),)),
    "complex": (lambda z: (z * 2 + 1j, z.conj(), z.abs(), z.real, -z), (torch.complex(normal(3), normal(3, seed=1)),)),
    "a transposed argument": (lambda x, y: (x @ y, x.reshape(-1), x.flatten() * 2), (normal(3, 2).t(), normal(3, 4))),
    "an expanded argument": (lambda x: (x + x.sum(0), x.reshape(6) / 2), (normal(2).expand(3, 2),)),
    "a strided argument": (lambda x: (x * 2, x.reshape(2, 2) + x.view(2, 2)), (normal(8)[::2],)),
    "an argument with an offset": (lambda x: x.reshape(-1) + 1, (normal(8)[3:],)),
    "the same tensor twice": (lambda x, y: x * y - y + x, (lambda x: (x, x))(normal(3))),
    "nothing in a tensor": (lambda x: (x.sum(), x * 2 + x, x @ x.t(), torch.cat([x, x])), (normal(0, 3),)),
    "no axes": (lambda x: (x * torch.ones_like(x), x + x * 3, x[None] + 1, x**2), (normal(1)[0],)),
    "float32": (lambda x: (x * torch.ones(3) + torch.zeros(3), x @ x, x * 3 / 7), (normal(3, 3, dtype=F32),)),
    "bfloat16": (lambda x: (x * torch.ones_like(x) + x * 3, x @ x + x, x * torch.ones(3)), (normal(3, 3, dtype=BF16),)),
    "mixed types": (
        lambda x, y, z: (x + y, y + 2 * z, x * z, x * torch.ones(2), z * torch.ones_like(x), z + torch.zeros_like(x)),
        (normal(2), normal(2, dtype=F32), normal(2, dtype=BF16)),
    ),
    "numbers of no axes do not promote": (
        lambda x, y: (x * y, x + y * 2, x * torch.ones((), dtype=F64), x + torch.zeros((), dtype=F64)),
        (normal(2, dtype=F32), normal(1)[0]),
    ),
    "casts": (lambda x: (x.float() * 1, x.to(BF16) + 0, x.long() * 1, x.float().double() * 1.0), (normal(3),)),
    "sorting": (lambda x: (*x.sort(0), *x.topk(2), x.argmax()), (normal(4),)),
    "several results of one operation": (lambda x: (*x.split(2), *torch.linalg.eigh(x @ x.t())), (normal(4, 4),)),
}


@pytest.mark.parametrize(("function", "args"), RESULTS.values(), ids=RESULTS)
def test_any_nest_of_arguments_and_results_comes_back_the_same(function, args, recordings):
    run = record(function)
    for given in (args, pytree.tree_map(again, args), args):
        assert_equal(run(*given), function(*given))
    assert len(recordings) == 1


class TestResults:
    """Whoever writes into a result changes no argument and no other result, unless the function itself shares them."""

    @pytest.mark.parametrize(
        "same",
        [
            lambda x: x * 1,
            lambda x: x + torch.zeros_like(x),
            lambda x: x**1,
            lambda x: x / 1,
            lambda x: x * torch.ones_like(x),
            lambda x: x.neg().neg(),
            lambda x: x.clone(),
        ],
    )
    def test_a_new_tensor_does_not_become_the_argument(self, same):
        x = normal(3)
        before = x.clone()
        record(same)(x).zero_()
        assert x.equal(before)

    def test_two_equal_results_are_two_tensors(self):
        first, second = record(lambda x: (x + 1, x + 1))(normal(3))
        first.zero_()
        assert second.equal(normal(3) + 1)

    def test_what_shares_memory_is_what_shares_it_in_the_function(self):
        def function(x: Tensor) -> tuple:
            y = x + 1
            return y, y, None, x * 1, x + 1, 3, y.view(-1), x, x.view(-1), (x + 1).view(-1), y * 1, x * 1

        def sharing(x: Tensor, results: tuple) -> list[list[bool]]:
            places = [t.untyped_storage().data_ptr() for t in (x, *results) if isinstance(t, Tensor)]
            return [[one == other for other in places] for one in places]

        x = normal(3)
        run = record(function)
        for _ in range(2):
            results = run(x)
            assert_equal(results, function(x))
            assert sharing(x, results) == sharing(x, function(x))

    def test_two_calls_share_nothing(self):
        run = record(lambda x: (torch.ones(3), torch.tensor([1.0, 2.0]), x * 0))
        for result in run(normal(2)):
            result += 5.0
        assert_equal(run(normal(2)), (torch.ones(3), torch.tensor([1.0, 2.0]), 0 * normal(2)))

    def test_a_recorded_result_carries_no_graph(self):
        weight = normal(2).requires_grad_()
        run = record(lambda x: x * weight)
        assert not run(normal(2)).requires_grad and not run(normal(2)).requires_grad

    def test_a_recording_keeps_nothing_that_it_was_made_with_alive(self):
        x = normal(1000)
        gone = weakref.ref(x)
        run = record(lambda x: (x.exp() * 2).sum())
        run(x)
        del x
        gc.collect()
        assert gone() is None and run(torch.zeros(1000, dtype=F64)) == 2000.0


class TestKeys:
    def test_every_shape_type_and_layout_has_a_recording_of_its_own(self, recordings):
        run = record(lambda x: x.reshape(-1) * 2 + len(x))
        for x in (normal(2), normal(3), normal(2, dtype=F32), normal(2, 3), normal(3, 2).t(), normal(2, 1), normal(2)):
            assert_equal(run(x), x.reshape(-1) * 2 + len(x))
        assert len(recordings) == 6

    @pytest.mark.parametrize(("one", "other"), [(1, 2), (1, 1.0), (1, True), (0.0, False), ("1", 1), (None, 0)])
    def test_every_constant_has_a_recording_of_its_own(self, one, other):
        def function(k: Tensor, constant: Any) -> tuple:
            scaled = k * constant if isinstance(constant, (int, float)) else k
            return scaled, type(constant).__name__

        run = record(function)
        for constant in (one, other, one):
            assert_equal(run(torch.arange(3), constant), function(torch.arange(3), constant))

    def test_the_sign_of_a_zero_is_part_of_a_constant(self):
        run = record(lambda x, c: x / c)
        assert run(torch.ones(1), 0.0) == torch.inf and run(torch.ones(1), -0.0) == -torch.inf

    def test_a_structure_is_not_mistaken_for_another(self):
        def function(nest: Any) -> Tensor:
            return nest["a"] - nest["b"] if isinstance(nest, dict) else nest[0] + nest[1]

        run = record(function)
        a, b = normal(2), normal(2, seed=1)
        for nest in ({"a": a, "b": b}, {"b": b, "a": a}, (a, b), [a, b], Pair(a, b), {"a": b, "b": a}):
            assert_equal(run(nest), function(nest))

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_conjugate_view_is_not_mistaken_for_what_it_looks_at(self, order):
        z = torch.complex(normal(3), normal(3, seed=1))
        run = record(lambda z: (z * 2 + 1j, z.abs(), torch.view_as_real(z.resolve_conj())))
        for one in (z, z.conj())[::order]:
            assert_equal(run(one), (one * 2 + 1j, one.abs(), torch.view_as_real(one.resolve_conj())))

    def test_the_order_of_names_is_that_of_the_call(self):
        run = record(lambda p: {name: 2 * value for name, value in p.items()})
        for names in ("ab", "ba", "ab"):
            p = {name: normal(2, seed=ord(name)) for name in names}
            assert list(run(p)) == list(names)
            assert_equal(run(p), {name: 2 * value for name, value in p.items()})

    def test_after_sixteen_shapes_a_function_runs_eagerly_and_the_old_recordings_still_run(self, recordings):
        calls = []

        def function(x: Tensor) -> Tensor:
            calls.append(len(x))
            return x.cumsum(0)

        run = record(function)
        with pytest.warns(UserWarning, match="function met more than 16 shapes") as caught:
            for n in (*range(1, 21), *range(1, 21)):
                assert_equal(run(normal(n)), normal(n).cumsum(0))
        assert len(caught) == 1
        assert len(recordings) == 16 and calls == [*range(1, 21), *range(17, 21)]

    def test_an_argument_that_cannot_be_a_key_runs_eagerly(self):
        run = record(lambda x, s: x * len(s))
        assert_equal(run(normal(2), {1, 2, 3}), normal(2) * 3)

    def test_the_function_runs_once_for_a_recording_and_not_at_all_after_it(self):
        calls = []
        run = record(lambda x: (calls.append(1), x + 1)[1])
        for _ in range(3):
            run(normal(2))
        assert len(calls) == 1

    def test_what_a_function_closes_over_stays_as_it_was_recorded(self):
        factor = [2.0]
        run = record(lambda x: x * factor[0])
        run(normal(2))
        factor[0] = 3.0
        assert_equal(run(normal(2)), 2.0 * normal(2))


class TestRandomness:
    DRAWS = (
        lambda x: (torch.rand(3), torch.rand_like(x), torch.randn(2), torch.randint(0, 9**9, (2,)), torch.randperm(50)),
        lambda x: (
            F.dropout(x, 0.5),
            torch.bernoulli(x.sigmoid()),
            torch.normal(x, 1.0),
            torch.rand(2) + torch.rand(2),
        ),
        lambda x: (torch.rand(2), x)[1] + torch.rand(3),  # a draw that nobody reads still moves the generator on
    )

    @pytest.mark.parametrize("draw", DRAWS)
    def test_a_seed_gives_the_same_numbers_recorded_and_eager(self, draw):
        x, run = normal(3), record(draw)
        run(x)
        torch.manual_seed(1)
        found = [run(x), run(x)]
        torch.manual_seed(1)
        assert_equal(found, [draw(x), draw(x)])

    @pytest.mark.parametrize("draw", [lambda x: torch.rand(3), torch.rand_like, lambda x: F.dropout(x.exp(), 0.5)])
    def test_every_call_and_every_draw_is_new(self, draw):
        run = record(lambda x: (draw(x), draw(x)))
        torch.manual_seed(2)
        x = normal(20)
        (a, b), (c, d) = run(x), run(x)
        for one, other in ((a, b), (a, c), (b, d), (c, d)):
            assert not one.equal(other)


class TestTransforms:
    """Inside a transform of somebody else the function runs as it is, so that its derivatives are right."""

    def cubic(self, recordings: list[str]) -> Callable[[Tensor], Tensor]:
        run = record(lambda x: (x**3).sum())
        run(normal(3))
        assert recordings.pop()
        return run

    def test_torch_func_sees_through(self, recordings):
        run, x = self.cubic(recordings), normal(3)
        assert_equal(torch.func.grad(run)(x), 3 * x * x)
        assert_equal(torch.func.vmap(run)(x[:, None]), x**3)
        assert_equal(torch.func.jvp(run, (x,), (torch.ones_like(x),))[1], 3 * (x * x).sum())
        assert_equal(torch.func.hessian(run)(x), torch.diag(6 * x))
        assert_equal(over_tasks(torch.func.grad(run))(x[:, None]), 3 * (x * x)[:, None])
        assert not recordings

    def test_autograd_sees_through(self, recordings):
        run, x = self.cubic(recordings), normal(3).requires_grad_()
        (slope,) = torch.autograd.grad(run(x), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        assert_equal(bend, 6 * x.detach())
        assert not recordings

    def test_forward_mode_sees_through(self):
        run, x = record(lambda x: (x**3).sum()), normal(3)
        run(x)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            tangent = torch.autograd.forward_ad.unpack_dual(run(dual)).tangent
        assert_equal(tangent, 3 * (x * x).sum())

    def test_without_gradients_asked_for_a_parameter_is_a_tensor_like_any_other(self, recordings):
        run, x = self.cubic(recordings), normal(3).requires_grad_()
        with torch.no_grad():
            assert_equal(run(x), (x.detach() ** 3).sum())
        assert not recordings  # the recording that there was has served

    def test_another_recording_sees_through(self, recordings):
        inner = record(lambda x: x.exp() * torch.ones_like(x))
        outer = record(lambda x: inner(x) + 1)
        for x in (normal(2), normal(2, seed=1)):
            assert_equal(outer(x), x.exp() + 1)
        assert len(recordings) == 1

    def test_a_dispatch_mode_sees_every_operation(self, recordings):
        from torch.utils.flop_counter import FlopCounterMode

        run = record(lambda x: x @ x)
        with FlopCounterMode(display=False) as counter:
            run(normal(4, 4))
        assert counter.get_total_flops() == 2 * 4**3 and not recordings

    def test_a_derivative_inside_the_function_is_recorded(self, recordings):
        run = record(lambda x: over_tasks(torch.func.grad(lambda y: y**3))(x))
        for x in (normal(3), normal(3, seed=1)):
            assert_equal(run(x), 3 * x * x)
        assert len(recordings) == 1

    def test_inference_mode_makes_and_runs_recordings(self):
        run, x = record(lambda x: x @ x + 1), normal(3, 3)
        with torch.inference_mode():
            assert_equal(run(x), x @ x + 1)
        assert_equal(run(x), x @ x + 1)
        other = record(lambda x: x @ x + 1)
        other(x)
        with torch.inference_mode():
            assert_equal(other(x), x @ x + 1)


class TestAutocast:
    def test_each_precision_has_a_recording_of_its_own(self, recordings):
        def function(a: Tensor, b: Tensor) -> tuple:
            return a @ b + 1, a.exp(), (a @ b).sum()

        run, a, b = record(function), normal(4, 4, dtype=F32), normal(4, 4, seed=1, dtype=F32)
        for _ in range(2):
            assert_equal(run(a, b), function(a, b))
            for dtype in (BF16, torch.float16):
                with torch.autocast("cpu", dtype=dtype):
                    assert run(a, b)[0].dtype == dtype
                    assert_equal(run(a, b)[0].float(), function(a, b)[0].float(), rounding=0.0)
        assert len(recordings) == 3

    def test_what_a_function_takes_out_of_autocast_stays_out(self):
        def exact(a: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return a @ a

        run, a = record(exact), normal(4, 4, dtype=F32)
        with torch.autocast("cpu", dtype=BF16):
            for _ in range(2):
                assert run(a).dtype == F32 and run(a).equal(exact(a))

    def test_what_a_function_puts_under_autocast_stays_there(self):
        def coarse(a: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=BF16):
                return a @ a + a

        run, a = record(coarse), normal(4, 4, dtype=F32)
        for _ in range(2):
            assert_equal(run(a), coarse(a))


class TestExecution:
    def test_eager_calls_the_function_itself(self, recordings):
        calls = []
        run = record(lambda x: (calls.append(1), x + 1)[1])
        with execution("eager"):
            run(normal(2))
            run(normal(2))
        assert len(calls) == 2 and not recordings

    def test_the_way_to_run_comes_back_after_the_block_and_after_an_error(self, recordings):
        run = record(lambda x: x + 1)
        with execution("eager"):
            with execution("recorded"):
                run(normal(2))
            assert len(recordings) == 1
            run(normal(3))
        with pytest.raises(KeyError), execution("eager"):
            raise KeyError
        assert len(recordings) == 1
        run(normal(4))
        assert len(recordings) == 2

    def test_another_word_is_refused_with_those_there_are(self):
        with pytest.raises(ValueError, match="one of eager, recorded, compiled; got 'fast'"), execution("fast"):
            pass

    def test_the_wrapper_keeps_the_name_and_the_documentation(self):
        assert record(squares).__name__ == "squares" and record(net).__doc__ == net.__doc__

    def test_a_function_without_a_name_is_recorded(self):
        from functools import partial

        assert_equal(record(partial(torch.mul, normal(2)))(normal(2)), normal(2) ** 2)


class TestFallback:
    def test_a_function_that_cannot_be_recorded_warns_once_and_runs_eagerly(self):
        def branching(x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

        run = record(branching)
        with pytest.warns(UserWarning, match="branching runs eagerly, since recording it failed: ") as caught:
            assert_equal(run(torch.ones(2)), torch.ones(2))
        assert len(caught) == 1 and caught[0].filename == __file__
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_equal(run(-torch.ones(2)), torch.ones(2))
            assert_equal(run(torch.ones(2)), torch.ones(2))
        assert not caught

    def test_an_error_of_the_function_itself_comes_through(self):
        def wrong(x: Tensor) -> Tensor:
            return x @ torch.ones(7, dtype=F64)

        with (
            pytest.warns(UserWarning, match="wrong runs eagerly"),
            pytest.raises(RuntimeError, match="inconsistent tensor size"),
        ):
            record(wrong)(normal(2))

    def test_a_compiler_that_fails_leaves_the_recording(self, monkeypatch):
        def broken(*_: Any, **__: Any) -> None:
            raise OSError("no C++ compiler\nand more")

        monkeypatch.setattr(torch._inductor, "compile", broken)
        run = record(squares)
        loss, params, data = LOSSES["network"]
        with execution("compiled"):
            with pytest.warns(UserWarning, match="squares runs without being compiled: OSError: no C.. compiler$"):
                assert_equal(run(params, data), loss(params, data))
            assert_equal(run(params, data), loss(params, data))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="compiling needs a C++ compiler")
def test_a_compiled_meta_gradient_is_the_eager_one():
    loss, params, data = LOSSES["network"]
    function = meta_gradient(loss)
    run = record(lambda *args: function(*args))
    with execution("compiled"):
        for tasks in (3, 4):
            for batch in (batched(data, tasks), pytree.tree_map(again, batched(data, tasks))):
                assert_equal(run(params, batch), function(params, batch), rounding=1e-11)


SMOOTH: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda h, w: h @ w,
    lambda h, w: h * w[0],
    lambda h, w: h + w[1],
    lambda h, w: torch.tanh(h),
    lambda h, w: h.exp().log1p(),
    lambda h, w: h - 0.3 * h.mean(0),
    lambda h, w: h / (h * h).mean(1, keepdim=True).add(0.5).sqrt(),
    lambda h, w: h.sin() * 2,
    lambda h, w: h.softmax(-1) * 3,
    lambda h, w: F.relu(h),
    lambda h, w: torch.where(h > 0.2, h, w[2] * h),
    lambda h, w: -h,
    lambda h, w: h.cumsum(0) / 4,
    lambda h, w: h[:, [2, 0, 1]],
    lambda h, w: h.flip(0),
    lambda h, w: (h.t() @ h @ w / 4)[:1] + h,
    lambda h, w: torch.cat([h[:1] * 2, h[1:]]),
    lambda h, w: torch.einsum("ni,ij->nj", h, w.sin()),
    lambda h, w: h * h / 2,
    lambda h, w: h.square().add(0.1).pow(0.5),
    lambda h, w: h.abs().add(0.3) ** w[0, 0].sigmoid(),
    lambda h, w: h.clamp(-2, 2),
    lambda h, w: F.softplus(h),
    lambda h, w: h.reshape(-1).reshape(3, -1).t(),
    lambda h, w: (h[..., None] * w).sum(-2),
    lambda h, w: h.t().contiguous().t() * 1.0,
    lambda h, w: h + torch.zeros_like(h),
    lambda h, w: torch.ones_like(h) * h,
    lambda h, w: h**1 - 0.0,
    lambda h, w: h.expand(2, *h.shape).sum(0) / 2,
]


@pytest.mark.parametrize("seed", seeds(6, 100))
def test_any_composition_has_the_same_meta_gradient_recorded(seed):
    """Losses of six operations drawn from thirty; the gradient around a vmap around an inner gradient."""
    draw = random.Random(seed)
    chosen = [draw.choice(SMOOTH) for _ in range(6)]
    readers = [draw.choice("wv") for _ in chosen]

    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        h = d[0]
        for layer, name in zip(chosen, readers, strict=True):
            h = layer(h, p[name])
        return ((h - d[1]) ** 2).mean() + 0.01 * sum((value * value).sum() for value in p.values())

    params = {"w": normal(3, 3, seed=seed) / 2, "v": normal(3, 3, seed=seed + 100) / 2}
    function = meta_gradient(loss)
    run = record(lambda *args: function(*args))
    for shift in (0, 1):
        batch = (normal(2, 4, 3, seed=seed + shift), normal(2, 4, 3, seed=seed + shift + 7))
        assert_equal(run(params, batch), function(params, batch), rounding=1e-10)

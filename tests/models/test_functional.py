"""A module becomes a pure function that is right under a task axis, or is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from scimeta.core.learners import maml
from scimeta.core.tasks import Task, over_tasks
from scimeta.models.convolution import conv2d
from scimeta.models.functional import functional
from scimeta.models.networks import conv4, mlp


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(module: nn.Module) -> nn.Module:
    """Return the module in float64 with every parameter drawn."""
    module = module.double()
    for number, value in enumerate(module.parameters()):
        value.data = value.data + 0.3 * draw(*value.shape, seed=number)
    return module


def meta_gradients(loss, plain_loss, params, data, steps: int = 2, rate: float = 0.1):
    """Return the meta-gradient under a task axis, the same recorded and replayed, and that of a plain loop."""

    def after(params, x, y, x_query, y_query):
        for _ in range(steps):
            grads = torch.func.grad(loss)(params, x, y)
            params = {name: p - rate * grads[name] for name, p in params.items()}
        return loss(params, x_query, y_query)

    whole = torch.func.grad(lambda p, *data: over_tasks(after, (None, 0, 0, 0, 0))(p, *data).mean())
    batched = whole(params, *data)
    with torch.no_grad():
        replayed = make_fx(whole)(params, *data)(params, *data)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    total = torch.zeros((), dtype=torch.float64)
    for x, y, x_query, y_query in zip(*data, strict=True):
        moved = leaves
        for _ in range(steps):
            grads = torch.autograd.grad(plain_loss(moved, x, y), list(moved.values()), create_graph=True)
            moved = {name: p - rate * g for (name, p), g in zip(moved.items(), grads, strict=True)}
        total = total + plain_loss(moved, x_query, y_query) / len(data[0])
    plain = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    return batched, replayed, plain


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    scale = max(float(value.norm()) for value in expected.values())
    return max(float((found[name] - expected[name]).norm()) for name in expected) / scale


def check_against_plain_loop(module: nn.Module, *shape: int, points: int = 5, outputs: int = 2, **loop) -> None:
    """The batched and the replayed meta-gradient are those of the native module in a loop."""
    params, apply = functional(module)
    state = {name: value.clone() for name, value in module.named_buffers()}
    squares = lambda apply: lambda p, x, y: (apply(p, x) - y).square().mean()  # noqa: E731
    plain = squares(lambda p, x: torch.func.functional_call(module, (p, state), (x,)))
    sizes = [(3, points, *shape), (3, points, outputs)] * 2
    data = tuple(draw(*size, seed=50 + i) for i, size in enumerate(sizes))
    batched, replayed, expected = meta_gradients(squares(apply), plain, params, data, **loop)
    assert difference(batched, expected) < 1e-12
    assert difference(replayed, expected) < 1e-12


def test_an_mlp():
    check_against_plain_loop(start(mlp([3, 8, 8, 2], activation=nn.Tanh)), 3)


def test_conv4():
    check_against_plain_loop(start(conv4(2, filters=6, size=12)), 1, 12, 12, steps=1, rate=0.02)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 0), bias=False),
        nn.Conv2d(2, 4, 1, stride=3),
        nn.Conv2d(2, 4, 2, stride=3, padding=1),
        nn.Conv2d(2, 4, 3, padding=3),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 2, dilation=2),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 40, 3, padding=1),
    ],
    ids=lambda c: c.extra_repr(),
)
def test_every_convolution(convolution: nn.Module):
    convolution = copy.deepcopy(convolution)
    features = convolution.double()(draw(1, 2, 6, 7)).numel()
    check_against_plain_loop(
        start(nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(features, 2))), 2, 6, 7
    )


@pytest.mark.parametrize("stride, padding", [(1, 0), (2, 1), ((1, 3), (2, 0)), (3, 2)])
def test_a_convolution_has_torchs_value_and_every_derivative(stride, padding):
    x, weight, bias = (t.requires_grad_() for t in (draw(2, 3, 7, 6), draw(5, 3, 3, 2, seed=1), draw(5, seed=2)))
    convolve = lambda *args: conv2d(*args, stride, padding)  # noqa: E731
    torch.testing.assert_close(convolve(x, weight, bias), F.conv2d(x, weight, bias, stride, padding))
    assert torch.autograd.gradcheck(convolve, (x, weight, bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(convolve, (x, weight, bias))


def test_forward_mode_of_a_convolution_works_under_a_task_axis():
    params, apply = functional(start(conv4(2, filters=4, size=9)))
    x, along = draw(3, 4, 1, 9, 9), {name: draw(*p.shape, seed=3) for name, p in params.items()}

    def product(x: Tensor) -> dict[str, Tensor]:
        gradient = torch.func.grad(lambda p: apply(p, x).square().mean())
        return torch.func.jvp(gradient, (params,), (along,))[1]

    found = over_tasks(product)(x)
    for task in range(3):
        gradient = torch.func.grad(lambda p, task=task: apply(p, x[task]).square().mean())
        expected = torch.func.vjp(gradient, params)[1](along)[0]
        assert difference({name: value[task] for name, value in found.items()}, expected) < 1e-12


class Mean(nn.Module):
    """What comes out of a child, averaged over positions; first of a tuple."""

    def __init__(self, child: nn.Module, **kwargs: object) -> None:
        super().__init__()
        self.child, self.kwargs, self.last = child, kwargs, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        attends = isinstance(self.child, nn.MultiheadAttention)
        out = self.child(x, x, x, **self.kwargs)[0] if attends else self.child(x)
        return self.last(out.mean(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["attention", "attention with weights", "transformer", "norm first"])
def test_attention_is_that_of_the_mathematical_kernel(kind: str, training: bool):
    if kind.startswith("attention"):
        child = nn.MultiheadAttention(8, 2, batch_first=True)
        module = Mean(child, need_weights=kind == "attention with weights")
    else:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=kind == "norm first")
        module = Mean(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
    module = start(module).train(training)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the fused one has no second derivative
        check_against_plain_loop(module, 4, 8, steps=1)


@pytest.mark.parametrize("case", ["plain", "causal", "bool mask", "added mask", "scale", "shared heads"])
def test_dot_product_attention_has_torchs_value(case: str):
    heads = 2 if case == "shared heads" else 4
    query, key, value = draw(3, 4, 5, 6), draw(3, heads, 7, 6, seed=1), draw(3, heads, 7, 2, seed=2)
    arguments = {
        "plain": {},
        "causal": {"is_causal": True},
        "bool mask": {"attn_mask": draw(5, 7) > -1.0},
        "added mask": {"attn_mask": draw(5, 7)},
        "scale": {"scale": 0.7},
        "shared heads": {"enable_gqa": True},
    }[case]

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, query: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.factor * query, key, value, **arguments)

    params, apply = functional(Attend())
    expected = F.scaled_dot_product_attention(query, key, value, **arguments)
    torch.testing.assert_close(apply(params, query), expected, rtol=1e-12, atol=1e-12)
    torch.func.hessian(lambda p: apply(p, query).square().sum())(params)  # fused, it would have no second derivative


class Direct(nn.Module):
    """Normalises by a function, not by a child, and flattens by view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.last = nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.layer_norm(self.conv(x), (3,), self.weight, self.bias))
        return self.last(x.view(x.size(0), -1))


def test_normalisation_called_as_a_function_is_made_right_too():
    check_against_plain_loop(start(Direct()), 2, 5, 5)


def test_tied_parameters_stay_one():
    module = mlp([4, 4, 4, 2], activation=nn.Tanh)
    module[2].weight = module[0].weight
    assert list(functional(module)[0]) == ["0.weight", "0.bias", "2.bias", "4.weight", "4.bias"]
    check_against_plain_loop(start(module), 4)


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def test_parametrized_weights_are_differentiated_through():
    module = start(mlp([3, 4, 2], activation=nn.Tanh))
    nn.utils.parametrize.register_parametrization(module[0], "weight", Positive())
    assert "0.parametrizations.weight.original" in functional(module)[0]
    check_against_plain_loop(module, 3)


def test_the_module_is_left_as_it_is():
    module = conv4(2, filters=4, size=9).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    params, apply = functional(module)
    params["0.weight"].zero_()
    apply(params, torch.randn(3, 1, 9, 9))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training and module[1].track_running_stats and module[0].weight.requires_grad
    assert not any(value.requires_grad for value in params.values())


def test_params_are_those_of_the_module_by_name_and_apply_reads_only_what_it_is_given():
    module = start(mlp([3, 4, 2]))
    params, apply = functional(module)
    expected = module(draw(5, 3))
    module[0].weight.data.zero_()
    assert list(params) == [name for name, _ in module.named_parameters()]
    torch.testing.assert_close(apply(params, draw(5, 3)), expected.detach(), rtol=1e-14, atol=1e-14)
    doubled = {name: 2.0 * value for name, value in params.items()}
    assert not torch.equal(apply(doubled, draw(5, 3)), apply(params, draw(5, 3)))


def test_frozen_parameters_are_held_and_not_listed():
    module = start(mlp([3, 4, 2]))
    module[0].requires_grad_(False)
    params, apply = functional(module)
    assert list(params) == ["2.weight", "2.bias"]
    torch.testing.assert_close(apply(params, draw(5, 3)), module(draw(5, 3)).detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_are_the_examples_own_whatever_the_mode(training: bool):
    module = start(conv4(2, filters=4, size=9))
    x = draw(6, 1, 9, 9)
    expected = copy.deepcopy(module).train()(x).detach()
    params, apply = functional(module.train(training), norm="batch")
    torch.testing.assert_close(apply(params, x), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(apply(params, x[:3]), apply(params, x)[:3])


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_are_frozen_and_make_examples_independent(training: bool):
    module = start(conv4(2, filters=4, size=9))
    module(draw(20, 1, 9, 9, seed=5))
    x = draw(6, 1, 9, 9)
    expected = copy.deepcopy(module).eval()(x).detach()
    params, apply = functional(module.train(training), norm="running")
    torch.testing.assert_close(apply(params, x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(apply(params, x[:1]), expected[:1], rtol=1e-12, atol=1e-12)


LINEAR = nn.Linear(3, 8)
REFUSED = {
    "GRU": (nn.Sequential(LINEAR, nn.GRU(8, 8)), r"'1' \(GRU\) .*nn.Linear"),
    "LSTM": (nn.Sequential(LINEAR, nn.LSTM(8, 8)), r"'1' \(LSTM\)"),
    "RNN": (nn.Sequential(LINEAR, nn.RNN(8, 8)), r"'1' \(RNN\)"),
    "GRUCell": (nn.Sequential(LINEAR, nn.GRUCell(8, 8)), r"'1' \(GRUCell\)"),
    "SyncBatchNorm": (nn.Sequential(LINEAR, nn.SyncBatchNorm(8)), r"'1' \(SyncBatchNorm\) .*nn.BatchNorm2d"),
    "Dropout": (nn.Sequential(LINEAR, nn.Dropout(0.5)), r"'1' \(Dropout\) draws at random.*eval\(\)"),
    "inner dropout": (nn.TransformerEncoderLayer(8, 2), r"'self_attn' \(MultiheadAttention\) draws"),
    "RReLU": (nn.Sequential(LINEAR, nn.RReLU()), r"'1' \(RReLU\) .*nn.LeakyReLU"),
    "pooling": (nn.Sequential(LINEAR, nn.FractionalMaxPool2d(2, 3)), r"'1' \(FractionalMaxPool2d\) draws"),
    "EmbeddingBag": (nn.Sequential(nn.EmbeddingBag(3, 8)), r"'0' \(EmbeddingBag\) .*nn.Embedding"),
    "max_norm": (nn.Sequential(nn.Embedding(3, 8, max_norm=1.0)), r"'0' \(Embedding\) is .* max_norm rescales rows"),
    "by frequency": (nn.Sequential(nn.Embedding(3, 8, scale_grad_by_freq=True)), r"'0' \(Embedding\) .* no derivative"),
    "CrossMapLRN2d": (nn.Sequential(LINEAR, nn.CrossMapLRN2d(2)), r"'1' \(CrossMapLRN2d\) .*LocalResponseNorm"),
    "lazy": (nn.Sequential(nn.LazyLinear(8)), r"'0' \(LazyLinear\) has no shapes yet; run one batch"),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 8)), r"\(_SpectralNorm\) updates"),
    "DataParallel": (nn.DataParallel(nn.Linear(3, 8)), r"'' \(DataParallel\) .*pass the module inside"),
    "none": (nn.ReLU(), "parameters to learn; of ReLU, it has none"),
    "all frozen": (nn.Linear(3, 8).requires_grad_(False), r"all are frozen \(weight, bias\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_right_is_refused_by_name(name: str):
    module, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        functional(module)


def test_all_faults_are_listed_at_once():
    with pytest.raises(ValueError, match=r"(?s)'0' \(GRU\).*'1.0' \(Dropout\)"):
        functional(nn.Sequential(nn.GRU(3, 3), nn.Sequential(nn.Dropout(0.1))))


def test_compiled_modules_are_refused():
    for module in (torch.compile(nn.Linear(3, 8)), nn.Sequential(torch.compile(nn.Linear(3, 8)))):
        with pytest.raises(ValueError, match=r"\(OptimizedModule\) is compiled"):
            functional(module)
    inner = nn.Linear(3, 8)
    inner.compile()
    with pytest.raises(ValueError, match=r"'0' \(Linear\) is compiled"):
        functional(nn.Sequential(inner))


def test_running_statistics_that_are_not_there_are_refused():
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, track_running_stats=False))
    functional(module, norm="batch")
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm1d\) has no running statistics"):
        functional(module, norm="running")


@pytest.mark.parametrize("module", [nn.Dropout(0.0), nn.Dropout(0.5).eval()], ids=["p = 0", "eval"])
def test_dropout_that_drops_nothing_is_taken(module: nn.Module):
    params, apply = functional(nn.Sequential(nn.Linear(3, 8), module))
    assert over_tasks(lambda x: apply(params, x))(torch.zeros(2, 5, 3)).shape == (2, 5, 8)


def test_native_normalisation_by_torchs_own_name_is_refused():
    class Native(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.layer_norm(super().forward(x), (8,))

    params, apply = functional(Native(3, 8))
    with pytest.raises(ValueError, match=r"torch\.layer_norm is wrong .*torch.nn.functional"):
        apply(params, torch.zeros(5, 3))


class Gated(nn.Module):
    """Two inputs, an option by its name, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(2, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor, context: Tensor, *, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        gate = torch.sigmoid(self.gate(context))
        return scale * gate * torch.tanh(self.body(x)), {"gate": gate}


def test_several_inputs_options_and_outputs_go_through():
    module = Gated().double()
    params, apply = functional(module)
    x, context = draw(3, 5, 2), draw(3, 5, 4, seed=1)
    torch.testing.assert_close(apply(params, x, context=context, scale=2.0), module(x, context, scale=2.0))

    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        out, said = apply(p, d[0], d[1], scale=2.0)
        return (out.square() + said["gate"]).mean()

    learner = maml(loss, params, lr=0.1)
    gradient = learner.meta_gradient(learner.meta, Task((x, context), (x, context)), 0)[1].init
    total = torch.zeros((), dtype=torch.float64)
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}

    def plain(p: dict[str, Tensor], i: int) -> Tensor:
        out, said = torch.func.functional_call(module, p, (x[i], context[i]), {"scale": 2.0})
        return (out.square() + said["gate"]).mean()

    for i in range(3):
        grads = torch.autograd.grad(plain(leaves, i), list(leaves.values()), create_graph=True)
        total = total + plain({n: p - 0.1 * g for (n, p), g in zip(leaves.items(), grads, strict=True)}, i) / 3
    wanted = torch.autograd.grad(total, list(leaves.values()))
    torch.testing.assert_close(list(gradient.values()), list(wanted), rtol=1e-9, atol=1e-12)


def test_params_of_other_names_are_refused():
    params, apply = functional(mlp([3, 4, 2]))
    with pytest.raises(ValueError, match=r"lacks 2\.bias and has unknown bias; there are 0.weight, 0.bias, 2.weight"):
        apply({"bias" if name == "2.bias" else name: value for name, value in params.items()}, torch.zeros(5, 3))


def test_what_is_no_module_or_no_policy_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module; got function"):
        functional(lambda x: x)
    with pytest.raises(ValueError, match='"batch" or "running"; got \'eval\''):
        functional(mlp([3, 2]), norm="eval")

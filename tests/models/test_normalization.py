"""Primitive normalisation equals torch's in value, and a plain loop of autograd at second and third order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scimeta.core.tasks import over_tasks
from scimeta.models import normalization
from scimeta.models.functional import functional

TASKS, POINTS, STEPS, RATE = 3, 6, 2, 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(width: int, norm: nn.Module, after: int) -> nn.Module:
    return nn.Sequential(nn.Linear(7, width), norm, nn.Tanh(), nn.Linear(after, 2))


def images(dims: int, norm: nn.Module, after: int) -> nn.Module:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(conv(2, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(after, 2))


NETWORKS = {
    "BatchNorm1d": (lambda affine: one(8, nn.BatchNorm1d(8, affine=affine), 8), (7,)),
    "BatchNorm2d": (lambda affine: images(2, nn.BatchNorm2d(4, affine=affine), 36), (2, 5, 5)),
    "BatchNorm3d": (lambda affine: images(3, nn.BatchNorm3d(4, affine=affine), 32), (2, 4, 4, 4)),
    "InstanceNorm1d": (lambda affine: images(1, nn.InstanceNorm1d(4, affine=affine), 20), (2, 7)),
    "InstanceNorm2d": (lambda affine: images(2, nn.InstanceNorm2d(4, affine=affine), 36), (2, 5, 5)),
    "InstanceNorm3d": (lambda affine: images(3, nn.InstanceNorm3d(4, affine=affine), 32), (2, 4, 4, 4)),
    "LayerNorm": (lambda affine: one(8, nn.LayerNorm(8, elementwise_affine=affine), 8), (7,)),
    "LayerNorm without bias": (lambda affine: one(8, nn.LayerNorm(8, elementwise_affine=affine, bias=False), 8), (7,)),
    "LayerNorm of images": (
        lambda affine: images(2, nn.LayerNorm((3, 3), elementwise_affine=affine), 36),
        (2, 5, 5),
    ),
    "GroupNorm": (lambda affine: images(2, nn.GroupNorm(2, 4, affine=affine), 36), (2, 5, 5)),
    "RMSNorm": (lambda affine: one(8, nn.RMSNorm(8, elementwise_affine=affine), 8), (7,)),
    "LocalResponseNorm": (lambda affine: images(2, nn.LocalResponseNorm(2), 36), (2, 5, 5)),
}


def network(name: str, affine: bool) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = make(affine).double()
    for number, value in enumerate(module.parameters()):  # away from ones and zeros, where terms vanish
        value.data += 0.2 * draw(*value.shape, seed=number)
    return module, shape


def batch(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    sizes = [(TASKS, POINTS, *shape), (TASKS, POINTS, 2)] * 2
    return tuple(draw(*size, seed=100 + i) for i, size in enumerate(sizes))


def plain_meta_gradient(module: nn.Module, data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The native module, a Python loop over tasks and nothing but autograd."""
    state = {name: value.detach().clone() for name, value in module.named_buffers()}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (torch.func.functional_call(module, (params, state), (x,)) - y).square().mean()

    total = torch.zeros((), dtype=torch.float64)
    for x, y, x_query, y_query in zip(*data, strict=True):
        params = leaves
        for _ in range(STEPS):
            grads = torch.autograd.grad(loss(params, x, y), list(params.values()), create_graph=True)
            params = {name: p - RATE * g for (name, p), g in zip(params.items(), grads, strict=True)}
        total = total + loss(params, x_query, y_query) / TASKS
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def batched_meta_gradient(loss, params: dict[str, Tensor], data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The gradient around one task axis."""

    def after(params: dict[str, Tensor], x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        for _ in range(STEPS):
            grads = torch.func.grad(loss)(params, x, y)
            params = {name: p - RATE * grads[name] for name, p in params.items()}
        return loss(params, x_query, y_query)

    return torch.func.grad(lambda p: over_tasks(after, (None, 0, 0, 0, 0))(p, *data).mean())(params)


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of a parameter's gradient, relative to the largest gradient of all."""
    assert found.keys() == expected.keys()
    scale = max(float(value.norm()) for value in expected.values())
    return max(float((found[name] - expected[name]).norm()) for name in expected) / scale


def squared_error(apply):
    return lambda params, x, y: (apply(params, x) - y).square().mean()


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_meta_gradient_under_a_task_axis_is_that_of_a_plain_loop(name: str, affine: bool):
    module, shape = network(name, affine)
    data = batch(shape)
    params, apply = functional(module)
    found = batched_meta_gradient(squared_error(apply), params, data)
    assert difference(found, plain_meta_gradient(module, data)) < 1e-12


@pytest.mark.parametrize("norm", ["BatchNorm2d", "InstanceNorm2d", "InstanceNorm1d", "LayerNorm of images"])
def test_the_comparison_catches_a_native_normalisation_that_is_wrong(norm: str):
    """Were torch to mend these, the primitives could go; until then this shows that the test above can fail."""
    module, shape = network(norm, True)
    if isinstance(module[1], nn.BatchNorm2d):  # with statistics to update it raises; without them it is silent
        module[1].running_mean = module[1].running_var = module[1].num_batches_tracked = None
    data = batch(shape)
    params = {name: value.detach() for name, value in module.named_parameters()}
    native = squared_error(lambda p, x: torch.func.functional_call(module, p, (x,)))
    assert difference(batched_meta_gradient(native, params, data), plain_meta_gradient(module, data)) > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_third_derivative_is_the_finite_difference_of_the_second(name: str):
    """In torch 2.13 that of the native batch, instance and layer normalisation is not, even without a task axis."""
    module, shape = network(name, True)
    x, y = draw(POINTS, *shape, seed=7), draw(POINTS, 2, seed=8)
    params, apply = functional(module)
    along = {key: draw(*value.shape, seed=i) for i, (key, value) in enumerate(params.items())}

    def second(params: dict[str, Tensor]) -> Tensor:
        """|gradient|^2 has the gradient 2 H g; its product with a direction holds second derivatives."""
        gradient = torch.func.grad(lambda p: squared_error(apply)(p, x, y))
        slope = torch.func.grad(lambda p: sum(g.square().sum() for g in gradient(p).values()))(params)
        return sum((slope[key] * along[key]).sum() for key in slope)

    def shifted(step: float) -> Tensor:
        return second({key: value + step * along[key] for key, value in params.items()})

    third = torch.func.grad(second)(params)
    found = sum((third[key] * along[key]).sum() for key in third)
    h = 1e-4
    differences = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h)
    assert float(found) == pytest.approx(float(differences), rel=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_mode_over_reverse_is_reverse_over_reverse(name: str):
    module, shape = network(name, True)
    x, y, params_apply = draw(POINTS, *shape, seed=7), draw(POINTS, 2, seed=8), functional(module)
    params, loss = params_apply[0], squared_error(params_apply[1])
    along = {key: draw(*value.shape, seed=i) for i, (key, value) in enumerate(params.items())}
    gradient = torch.func.grad(lambda p: loss(p, x, y))
    _, forward = torch.func.jvp(gradient, (params,), (along,))
    reverse = torch.func.vjp(gradient, params)[1](along)[0]  # the Hessian is symmetric
    assert difference(forward, reverse) < 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_values_are_those_of_torch(training: bool):
    x = 3.0 + draw(6, 4, 5)
    weight, bias, mean, var = (draw(4, seed=i) for i in range(4))
    var = var.square() + 0.1
    found = normalization.batch_norm(x, mean, var, weight, bias, training, eps=1e-3)
    expected = F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training, eps=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found = normalization.instance_norm(x, mean, var, weight, bias, training)
    expected = F.instance_norm(x, mean.clone(), var.clone(), weight, bias, training)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for arguments in [((5,), draw(5), draw(5, seed=1)), ((4, 5), draw(4, 5), None), ((5,), None, None)]:
        torch.testing.assert_close(
            normalization.layer_norm(x, *arguments), F.layer_norm(x, *arguments), rtol=1e-12, atol=1e-12
        )
    found, expected = normalization.group_norm(x, 2, weight, bias), F.group_norm(x, 2, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_large_mean_does_not_cost_precision_in_float32():
    x = draw(1000, 3)
    exact = normalization.batch_norm(x, training=True)
    found = normalization.batch_norm((x + 1000.0).float(), training=True)
    assert (found - exact).abs().max() < 1e-3  # the rounding of the input itself: 1000 * 2^-24, not of its square


def test_running_statistics_are_read_and_never_written():
    mean, var = torch.tensor([1.0]), torch.tensor([4.0])
    out = normalization.batch_norm(torch.tensor([[5.0]]), mean, var, eps=0.0)
    assert float(out) == 2.0
    normalization.batch_norm(torch.tensor([[5.0], [7.0]]), mean, var, training=True)
    assert float(mean) == 1.0 and float(var) == 4.0


def test_statistics_of_one_value_and_wrong_axes_are_refused():
    with pytest.raises(ValueError, match=r"more than one value a channel; x has shape \(1, 3\)"):
        normalization.batch_norm(torch.ones(1, 3), training=True)
    with pytest.raises(ValueError, match="more than one value a channel"):
        normalization.instance_norm(torch.ones(2, 3, 1))
    with pytest.raises(ValueError, match=r"to end in the axes \(4,\); x has shape \(2, 3\)"):
        normalization.layer_norm(torch.ones(2, 3), (4,))
    with pytest.raises(ValueError, match="2 groups do not divide the 3 channels"):
        normalization.group_norm(torch.ones(2, 3), 2)


def test_weight_norm_has_a_right_second_derivative():
    v, g = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.ones(3, 1).double()
    inputs = (v.requires_grad_(), (g + 0.5).requires_grad_())
    assert torch.autograd.gradcheck(normalization.weight_norm, inputs)
    assert torch.autograd.gradgradcheck(normalization.weight_norm, inputs)
    torch.testing.assert_close(normalization.weight_norm(*inputs), torch._weight_norm(*inputs, 0))


def test_frozen_parameters_follow_the_others_to_another_type():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    net[0].requires_grad_(False)
    params, apply = functional(net)
    assert list(params) == ["1.weight", "1.bias"]
    double = apply({name: value.double() for name, value in params.items()}, torch.ones(4, 2).double())
    torch.testing.assert_close(double, net.double()(torch.ones(4, 2).double()))

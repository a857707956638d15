"""Networks have the announced layers and shapes, and start reproducibly."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from scimeta.models.networks import SpatialMean, conv4, mlp


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_mlp_has_linear_layers_and_activations_between_them_alone():
    network = mlp([1, 40, 40, 1], activation=nn.Tanh, generator=seeded())
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert shapes == {
        "0.weight": (40, 1),
        "0.bias": (40,),
        "2.weight": (40, 40),
        "2.bias": (40,),
        "4.weight": (1, 40),
        "4.bias": (1,),
    }


def test_conv4_has_four_blocks_a_mean_and_a_linear_layer():
    network = conv4(5, generator=seeded())
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(layer) for layer in network] == [*block * 4, SpatialMean, nn.Linear]
    assert sum(value.numel() for value in network.parameters()) == 640 + 3 * 36928 + 4 * 128 + 325
    assert network(torch.zeros(10, 1, 28, 28)).shape == (10, 5)
    assert network[:-2](torch.zeros(10, 1, 28, 28)).shape == (10, 64, 2, 2)


@pytest.mark.parametrize("size", [9, 16, 28, 84])
def test_conv4_takes_any_channels_filters_and_size(size: int):
    network = conv4(3, channels=3, filters=8, size=size, generator=seeded())
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("make", [lambda g: mlp([2, 3, 1], generator=g), lambda g: conv4(5, filters=4, generator=g)])
def test_the_same_seed_gives_the_same_start_and_leaves_the_global_generator_alone(make):
    before = torch.get_rng_state()
    first, again, other = make(seeded(1)), make(seeded(1)), make(seeded(2))
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_weights_start_with_he_variance_and_biases_at_zero():
    linear = mlp([200, 400, 1], generator=seeded())[0]
    assert float(linear.weight.detach().std()) == pytest.approx(sqrt(2.0 / 200), rel=0.01)
    convolution = conv4(5, generator=seeded())[3]
    assert float(convolution.weight.detach().std()) == pytest.approx(sqrt(2.0 / 576), rel=0.01)
    assert not linear.bias.any() and not convolution.bias.any()


def test_the_spatial_mean_is_the_mean_over_the_last_two_axes():
    x = torch.randn(2, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(SpatialMean()(x), x.mean((2, 3)), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("sizes", [[], [3], [3, 0, 1]])
def test_an_mlp_of_too_few_or_empty_layers_is_refused(sizes: list[int]):
    with pytest.raises(ValueError, match="at least two sizes of 1 or more"):
        mlp(sizes)


def test_a_conv4_of_nothing_or_for_tiny_images_is_refused():
    with pytest.raises(ValueError, match="ways=0"):
        conv4(0)
    with pytest.raises(ValueError, match="9 x 9 pixels or more; got size=8"):
        conv4(5, size=8)

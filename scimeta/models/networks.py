"""Small networks that few-shot work is measured on, started reproducibly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


class SpatialMean(nn.Module):
    """(images, channels, height, width) -> (images, channels): the mean over the two spatial axes."""

    def forward(self, x: Tensor) -> Tensor:
        # A sum divided afterwards: the derivative of a mean would divide a tensor of the size of x.
        return x.sum((-2, -1)) / (x.shape[-2] * x.shape[-1])


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Return linear layers of these sizes with an activation between them, none after the last.

    Weights start normal with variance 2 / inputs (He), biases at zero.

    Args:
        sizes: width of the input, of each hidden layer, of the output.
        activation: makes the module between two layers.
        generator: source of the start; None for torch's global one.

    Raises:
        ValueError: fewer than two sizes, or one below 1.

    Reference: He, Zhang, Ren, Sun, Delving deep into rectifiers, ICCV 2015.

    >>> mlp([1, 40, 40, 1], generator=torch.Generator().manual_seed(0))(torch.zeros(10, 1)).shape
    torch.Size([10, 1])
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"mlp needs at least two sizes of 1 or more (input, output); got {list(sizes)}")
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [skip_init(nn.Linear, inputs, outputs), activation()]
    return _he_start(nn.Sequential(*layers[:-1]), generator)


def conv4(
    ways: int,
    *,
    channels: int = 1,
    filters: int = 64,
    size: int = 28,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Return the few-shot network of four blocks: convolution 3 x 3 (stride 2), batch normalisation, ReLU.

    The mean over the remaining pixels and a linear layer follow. Weights start normal with variance 2 / inputs (He),
    biases at zero, normalisations at the identity.

    Args:
        ways: number of classes, the outputs.
        channels: channels of an image.
        filters: features of each block.
        size: height and width of an image in pixels; each block halves it, rounding up.
        generator: source of the start; None for torch's global one.

    Raises:
        ValueError: a number below 1, or images too small for the last normalisation.

    Reference: Finn, Abbeel, Levine, Model-agnostic meta-learning, ICML 2017 (the Omniglot network).

    >>> conv4(5, generator=torch.Generator().manual_seed(0))(torch.zeros(10, 1, 28, 28)).shape
    torch.Size([10, 5])
    """
    if min(ways, channels, filters) < 1:
        raise ValueError(f"conv4 needs 1 or more of each; got ways={ways}, channels={channels}, filters={filters}")
    if size < 9:
        raise ValueError(f"conv4 halves an image four times and needs 9 x 9 pixels or more; got size={size}")
    blocks = []
    for inputs in (channels, filters, filters, filters):
        convolution = skip_init(nn.Conv2d, inputs, filters, 3, stride=2, padding=1)
        blocks += [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
    return _he_start(nn.Sequential(*blocks, SpatialMean(), skip_init(nn.Linear, filters, ways)), generator)


def _he_start(network: nn.Sequential, generator: torch.Generator | None) -> nn.Sequential:
    """Return the network with He's normal start of its linear and convolution layers, in order."""
    # The layers' own start was skipped: it would draw from the global generator.
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network

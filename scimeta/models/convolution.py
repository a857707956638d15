"""Convolution as one matrix product a task: for a CPU, with derivatives of every order.

The images of a task are laid out with their channels last; ``gather`` copies each output pixel's neighbourhood into a
row, and the rows are multiplied by the kernels. Gather and scatter, the two orders of a kernel's axes, and the product
with its two gradients are families that differentiation does not leave: every tensor keeps its layout at every order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of images with kernels, as ``torch.nn.functional.conv2d``.

    A matrix product on a CPU; the native operation elsewhere, and for groups, dilation or one unbatched image.

    Args:
        x: (images, channels, height, width).
        weight: (features, channels, rows, columns).
        bias: (features,) or None.
        stride: step between output pixels.
        padding: zeros on each side.
        dilation: step between the taps of a kernel.
        groups: blocks of channels that do not mix.
    Returns: (images, features, height, width), with channels last in memory.

    Reference: Chellapilla, Puri, Simard, High performance convolutional neural networks for document processing, 2006.

    >>> conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), padding=1, stride=2)
    tensor([[[[4., 4.],
              [4., 4.]]]])
    """
    plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str)
    # torch.compile cannot trace a Function that has a jvp.
    here = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (plain and here and x.dim() == 4 and x.shape[1] == weight.shape[1]):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    window = _Window(tuple(x.shape), tuple(weight.shape[2:]), _pair(stride), _pair(padding))
    rows = _Gather.apply(x.permute(0, 2, 3, 1), window)  # (images height width, rows columns channels)
    out = _Form.apply(0, None, _ToRows.apply(weight), rows)  # (images height width, features)
    out = out if bias is None else out + bias
    return out.view(x.shape[0], *window.size, -1).permute(0, 3, 1, 2)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return one number for each of the two axes."""
    return (value, value) if isinstance(value, int) else tuple(value)


class _Window(NamedTuple):
    """Where the taps of a kernel fall."""

    shape: tuple[int, int, int, int]  # images, channels, height, width
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        rows, columns = (
            (length + 2 * padding - taps) // stride + 1
            for length, taps, stride, padding in zip(
                self.shape[2:], self.kernel, self.stride, self.padding, strict=True
            )
        )
        return rows, columns


def _neighbourhoods(padded: Tensor, window: _Window) -> Tensor:
    """Return (images, output height, output width, rows, columns, channels), a view of padded images."""
    (rows, columns), (down, right) = window.kernel, window.stride
    return padded.unfold(1, rows, down).unfold(2, columns, right).permute(0, 1, 2, 4, 5, 3)


class _Gather(Function):
    """(images, height, width, channels) -> one row an output pixel, its neighbourhood; zero outside the image."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, window: _Window) -> Tensor:
        top, left = window.padding
        taps = _neighbourhoods(F.pad(x, (0, 0, left, left, top, top)), window)
        return taps.reshape(window.shape[0] * window.size[0] * window.size[1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.window = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _Scatter.apply(grad, ctx.window), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Gather.apply(tangent, ctx.window)


class _Scatter(Function):
    """The transpose of gather: rows are added to the pixels that they came from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, window: _Window) -> Tensor:
        images, channels, height, width = window.shape
        top, left = window.padding
        padded = rows.new_zeros(images, height + 2 * top, width + 2 * left, channels)
        # Through slices: the windows themselves overlap, and a compiler refuses to write through them.
        (down, right), (high, wide) = window.stride, window.size
        taps = rows.view(images, high, wide, *window.kernel, channels)
        for i in range(window.kernel[0]):
            for j in range(window.kernel[1]):
                padded[:, i : i + down * high : down, j : j + right * wide : right] += taps[:, :, :, i, j]
        return padded[:, top : top + height, left : left + width]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.window = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _Gather.apply(grad, ctx.window), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Scatter.apply(tangent, ctx.window)


class _ToRows(Function):
    """Kernel (features, channels, rows, columns) -> matrix (features, rows columns channels)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.shape = tuple(inputs[0].shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _FromRows.apply(grad, ctx.shape)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _ToRows.apply(tangent)


class _FromRows(Function):
    """The inverse of to-rows, copied: parameters and gradients that differ in layout are slow to add."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        return matrix.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.shape = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _ToRows.apply(grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _FromRows.apply(tangent, ctx.shape)


class _Form(Function):
    """Two of the slots of sum(out[r, f] kernel[f, i] rows[r, i]) -> the derivative of that sum by the third.

    Of (kernel, rows) it is the product, the convolution itself; the other two are its gradients, and the gradients of
    each are again of this kind. Left to autograd, every second one would come out transposed in memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(slot: int, out: Tensor | None, kernel: Tensor | None, rows: Tensor | None) -> Tensor:
        if slot == 0:
            return rows @ kernel.t()
        if slot == 2:
            return out @ kernel
        # The longer axis first: batched products with few columns are slow.
        return out.t() @ rows if out.shape[1] < rows.shape[1] else (rows.t() @ out).t()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.slot = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slots = list(ctx.saved_tensors)
        slots[ctx.slot] = grad
        wanted = [needed and slot != ctx.slot for slot, needed in enumerate(ctx.needs_input_grad[1:])]
        return None, *(_Form.apply(slot, *_without(slots, slot)) if want else None for slot, want in enumerate(wanted))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        slots = list(ctx.saved_tensors)
        parts = []
        for slot, tangent in enumerate(tangents):
            if tangent is not None:
                parts.append(_Form.apply(ctx.slot, *slots[:slot], tangent, *slots[slot + 1 :]))
        return sum(parts[1:], parts[0])


def _without(slots: list[Tensor | None], slot: int) -> list[Tensor | None]:
    """Return the slots with one left empty."""
    return [None if i == slot else value for i, value in enumerate(slots)]

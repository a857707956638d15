"""``nn.Module`` -> (params, apply): a pure function that is right under a task axis and at every order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode

from scimeta.core import embedding
from scimeta.models import attention, convolution, normalization
from scimeta.models.state import HeldState

Params = dict[str, Tensor]
"""Flat mapping from name to tensor, as ``dict(module.named_parameters())`` gives."""


def functional(module: nn.Module, *, norm: Literal["batch", "running"] = "batch") -> tuple[Params, Callable[..., Any]]:
    """Return a module's parameters, detached copies, and its pure forward function ``apply(params, *args, **kwargs)``.

    ``apply`` takes what the module's forward takes, of the examples of ONE task, and may be batched over tasks and
    differentiated by ``torch.func``, in any order and as often as wanted. Batch, instance and layer normalisation,
    attention, embeddings with a padding row and (on a CPU) convolution run as elementary operations, also where a
    module calls them by ``torch.nn.functional``: in torch 2.13 the native ones are silently wrong or fail there. What
    cannot be made right is refused. The module itself stays as it is; parameters with ``requires_grad=False`` are held
    at their values and are not in ``params``.

    Args:
        module: any module; its forward may take and return several tensors.
        norm: statistics of batch normalisation, whatever mode the module is in: "batch" for those of the examples
            given (of all of them together: a query's answers depend on its company), "running" for those the module
            has stored (never updated).

    Raises:
        TypeError: not a module.
        ValueError: children that cannot be differentiated twice under a task axis, each by its name; no parameters.
            From ``apply``: parameters of other names; a forward function that changes what the module holds (a buffer,
            or a number that makes the next call another one).

    >>> params, apply = functional(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)))
    >>> list(params), apply(params, torch.ones(5, 3)).shape
    (['0.weight', '0.bias', '1.weight', '1.bias'], torch.Size([5, 2]))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"functional expects a torch.nn.Module; got {type(module).__name__}")
    if norm not in ("batch", "running"):
        raise ValueError(f'norm must be "batch" or "running"; got {norm!r}')
    _check(module, norm)
    held = _with_statistics(copy.deepcopy(module), norm)
    params = {name: value.detach().clone() for name, value in held.named_parameters() if value.requires_grad}
    held.requires_grad_(False)
    first = next(iter(params.values()))
    rest = {n: t for n, t in (*held.named_parameters(), *held.named_buffers()) if n not in params}

    def along(params: Params) -> Params:
        """Return what is held, on the device and in the type to which the parameters have gone."""
        one = next(iter(params.values()))
        if (one.dtype, one.device) == (first.dtype, first.device):
            return {}
        # Only what was of the parameters' type follows it: a module may mix types on purpose.
        return {n: t.to(one.device, one.dtype if t.dtype == first.dtype else t.dtype) for n, t in rest.items()}

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        if params.keys() != names:
            raise ValueError(_names_differ(names, params.keys()))
        given = {**along(params), **params}
        with _Primitives():
            return state.hold(lambda: torch.func.functional_call(held, given, args, kwargs), given)

    names, state = params.keys(), HeldState(held)
    return params, apply


class _Primitives(TorchFunctionMode):
    """While it is on, the operations of ``_SWAPS`` run as elementary ones."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _REFUSED_CALLS:
            raise ValueError(f"{_REFUSED_CALLS[func]} is wrong or undefined at second order; {_INSTEAD}")
        if func == Tensor.data.__set__:
            raise ValueError("functional cannot take a forward function that assigns to a tensor's .data; compute anew")
        return _SWAPS.get(func, func)(*args, **(kwargs or {}))


_SWAPS: dict[Callable, Callable] = {
    **embedding.SWAPS,
    F.batch_norm: normalization.batch_norm,
    F.instance_norm: normalization.instance_norm,
    F.layer_norm: normalization.layer_norm,
    F.group_norm: normalization.group_norm,
    torch._weight_norm: normalization.weight_norm,
    F.conv2d: convolution.conv2d,
    F.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    F.multi_head_attention_forward: attention.multi_head_attention_forward,
    # Shares the memory too, and what is written there is counted.
    Tensor.data.__get__: Tensor.detach,
    # Images leave a convolution with channels last, where the usual x.view(len(x), -1) is not a view.
    Tensor.view: Tensor.reshape,
}
_INSTEAD = "call the function of that name in torch.nn.functional"
_REFUSED_CALLS: dict[Callable, str] = {
    getattr(torch, name): f"torch.{name}"
    for name in ("batch_norm", "instance_norm", "layer_norm", "native_batch_norm", "native_layer_norm")
}

_RECURRENT = "has no derivative under a task axis; write the recurrence with nn.Linear, or use attention"
_DRAWS = "draws at random, which has no place in a pure function"
_WRAPPED = "pass the module inside it"
_REFUSED: list[tuple[type | tuple[type, ...], str]] = [
    ((nn.RNNBase, nn.RNNCellBase), _RECURRENT),
    (nn.SyncBatchNorm, "exchanges statistics between processes; use nn.BatchNorm2d (or 1d, 3d)"),
    (nn.EmbeddingBag, "has no second derivative; use nn.Embedding and a mean or sum"),
    (nn.CrossMapLRN2d, "has no second derivative; use nn.LocalResponseNorm"),
    (nn.RReLU, f"{_DRAWS}; use nn.LeakyReLU"),
    ((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), f"{_DRAWS}; use nn.MaxPool2d (or 3d)"),
    (torch.jit.ScriptModule, "is compiled; pass the plain module"),
    ((nn.DataParallel, nn.parallel.DistributedDataParallel), f"splits the batch itself; {_WRAPPED}"),
]


def _check(module: nn.Module, norm: str) -> None:
    """Raise ValueError if a child, or the whole, cannot be made right; names all of them."""
    faults = [
        f"{name!r} ({type(child).__name__}) {reason}"
        for name, child in module.named_modules()
        if (reason := _refusal(child, norm))
    ]
    if faults:
        raise ValueError("functional cannot take this module:\n  " + "\n  ".join(faults))
    trained = [name for name, value in module.named_parameters() if value.requires_grad]
    if not trained:
        frozen = [name for name, _ in module.named_parameters()]
        state = f"all are frozen ({', '.join(frozen)}); set requires_grad" if frozen else "it has none"
        raise ValueError(f"functional needs a module with parameters to learn; of {type(module).__name__}, {state}")


def _refusal(child: nn.Module, norm: str) -> str | None:
    """Return why a child is refused and what to do instead, or None."""
    if isinstance(child, LazyModuleMixin) and child.has_uninitialized_params():
        return "has no shapes yet; run one batch through the module first"
    if hasattr(child, "_orig_mod") or child._compiled_call_impl is not None:
        return f"is compiled, and a compiled module gives first-order gradients without a word; {_WRAPPED}"
    for types, reason in _REFUSED:
        if isinstance(child, types):
            return reason
    chance = child.p if isinstance(child, _DropoutNd) else getattr(child, "dropout", 0.0)
    if child.training and isinstance(child, _DropoutNd | nn.MultiheadAttention) and chance > 0.0:
        return f"{_DRAWS}; set p=0 or put it in eval() mode"
    if isinstance(child, nn.Embedding) and (reason := embedding.refusal(child.max_norm, child.scale_grad_by_freq)):
        return f"is {reason}"
    if child.training and type(child).__name__ in ("_SpectralNorm", "SpectralNorm"):
        return "updates its own buffers; put it in eval() mode"
    if norm == "running" and isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is None:
        return 'has no running statistics; pass norm="batch" or make it with track_running_stats=True'
    return None


def _with_statistics(module: nn.Module, norm: str) -> nn.Module:
    """Return the module with its normalisations set to these statistics and nothing left to update."""
    for child in module.modules():
        if isinstance(child, _NormBase):
            child.num_batches_tracked = None
            if norm == "running":
                child.eval()
            else:
                child.running_mean = child.running_var = None
                child.track_running_stats = False
    return module


def _names_differ(expected: Any, found: Any) -> str:
    """Return the sentence for parameters of the wrong names."""
    missing, extra = [n for n in expected if n not in found], [n for n in found if n not in expected]
    parts = [f"lacks {', '.join(missing)}"] if missing else []
    parts += [f"has unknown {', '.join(extra)}"] if extra else []
    return f"apply: params {' and '.join(parts)}; there are {', '.join(expected)}"

"""Algebra on a recorded graph: what automatic differentiation writes down and no one needs to compute."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_REARRANGED = _RESHAPES | {
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.squeeze.dim,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
}
_TIMES = {aten.mul.Scalar, aten.mul.Tensor}
_OVER = {aten.div.Scalar, aten.div.Tensor}
# Operations whose binding torch.<name> takes the same arguments and is quicker to call.
_BOUND = {"abs", "add", "addmm", "baddbmm", "bmm", "clamp", "cos", "div", "exp", "index_select", "log", "mean", "mm"}
_BOUND |= {"mul", "neg", "permute", "pow", "reciprocal", "relu", "reshape", "rsqrt", "sigmoid", "sin", "sqrt", "sub"}
_BOUND |= {"sum", "t", "tanh", "transpose", "unsqueeze", "where"}
_ROUNDS = 3  # of rewriting; each sees what the one before made


def simplify(recording: GraphModule) -> GraphModule:
    """Return the recording with the same values (up to the rounding of merged factors) from fewer operations.

    Tensors filled with one number become that number, repeated work is done once, rearrangements that undo each other
    go, and a product with its sum becomes one call. What is written to in place, and what reads it, stays as it is.
    """
    graph = recording.graph
    (returned,) = (node for node in graph.nodes if node.op == "output")
    before = memory_owners(graph)
    apart = [before.get(node, frozenset()) for node in _results(returned)]
    written = _written(graph, before)
    for _ in range(_ROUNDS):
        filled: dict[Node, float] = {}
        seen: dict[tuple, Node] = {}
        for node in list(graph.nodes):
            if not _computes(node) or _near(node) & written:
                continue
            number = _filled_with(node, filled)
            new = _shorter(node, filled) or _repeats(node, seen)
            if new is not None:
                node.replace_all_uses_with(new)
                graph.erase_node(node)
            elif number is not None:
                filled[node] = number
        graph.eliminate_dead_code(_has_effects)
    for node in list(graph.nodes):
        if _computes(node) and not _near(node) & written and (new := _merged(node)) is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    graph.eliminate_dead_code(_has_effects)
    _keep_apart(graph, returned, apart)
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _quickest(node.target)
    graph.lint()
    recording.recompile()
    return recording


def _quickest(target: Any) -> Callable[..., Any]:
    """Return the quickest way to call an operation."""
    if target in _RESHAPES:
        return torch.reshape  # merging may have changed a layout: it views where it can and copies where it must
    name = target.overloadpacket.__name__ if isinstance(target, OpOverload) and target.namespace == "aten" else ""
    return getattr(torch, name) if name in _BOUND else target


def _value(node: Node) -> Tensor:
    """Return the shape, type and layout that the node had when it was recorded."""
    return node.meta["val"]


def _computes(node: object) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)


def node_arguments(node: Node) -> Iterator[tuple[Any, list[Node]]]:
    """Yield each argument of an operation's schema with the nodes that are given for it."""
    for index, argument in enumerate(node.target._schema.arguments):
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        yield argument, [x for x in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(x, Node)]


def memory_owners(graph: Graph) -> dict[Node, frozenset[Node]]:
    """Return, for every node, those whose memory it looks at, or may look at."""
    owners: dict[Node, frozenset[Node]] = {}
    for node in graph.nodes:
        looks_at: list[Node] = []
        if node.op == "call_function" and node.target is operator.getitem:
            looks_at = [node.args[0]]
        elif node.op == "call_function" and isinstance(node.target, OpOverload):
            for argument, values in node_arguments(node):
                if argument.alias_info is not None or node.target in _RESHAPES:
                    looks_at += values
        owners[node] = frozenset().union(*(owners[value] for value in looks_at)) or frozenset([node])
    return owners


def _written(graph: Graph, owners: dict[Node, frozenset[Node]]) -> set[Node]:
    """Return the nodes that share, or may share, their memory with one that is written to in place."""
    changed: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            for argument, values in node_arguments(node):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    changed = changed.union(*(owners[value] for value in values))
    return {node for node in graph.nodes if owners[node] & changed}


def _results(returned: Node) -> list[Any]:
    value = returned.args[0]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _keep_apart(graph: Graph, returned: Node, before: list[frozenset[Node]]) -> None:
    """Copy the results that have come to share memory with an input or with each other, and did not before."""
    owners, results = memory_owners(graph), _results(returned)
    for index, node in enumerate(results):
        if not before[index]:
            continue  # a constant
        inputs = {owner for owner in owners[node] if owner.op != "call_function"} - before[index]
        earlier = [results[other] for other in range(index) if before[other] and not before[other] & before[index]]
        if inputs or any(owners[node] & owners[other] for other in earlier):
            results[index] = _call(returned, aten.clone.default, node, like=node)
            owners[results[index]] = frozenset([results[index]])
    returned.args = (results if isinstance(returned.args[0], (list, tuple)) else results[0],)


def _near(node: Node) -> set[Node]:
    """Return the node, what it reads, and so on: all that a rewriting looks at."""
    near = {node}
    for _ in range(3):  # a sum, a reshape, a product and its factors
        near |= {one for reader in near for one in reader.all_input_nodes}
    return near


def _has_effects(node: Node) -> bool:
    """Whether the node must stay although nobody uses it: inputs, results, writes, and draws of random numbers."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return node.op in ("placeholder", "output")
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags


def _is(node: object, *targets: object) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def _like(node: object, other: Node) -> bool:
    """Whether both have the same shape and type."""
    if not (isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)):
        return False
    return _value(node).shape == _value(other).shape and _value(node).dtype == _value(other).dtype


def _call(before: Node, target: object, *args: object, like: Node | None = None, **kwargs: object) -> Node:
    """Return a new call, inserted before a node, with the value's description of ``like``."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args, kwargs)
    node.meta = dict((like or before).meta)
    return node


def _filled_with(node: Node, filled: dict[Node, float]) -> float | None:
    """Return the number that fills the node's whole tensor, if one does."""
    args = node.args
    if not _value(node).is_floating_point():
        return None
    if _is(node, aten.ones_like.default, aten.ones.default, aten.new_ones.default):
        return 1.0
    if _is(node, aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default):
        return 0.0
    if _is(node, aten.full.default, aten.full_like.default):
        return args[1] if _held(args[1], node) else None
    if _is(node, aten.pow.Tensor_Scalar) and args[1] == 0:
        return 1.0
    number = filled.get(args[0]) if args and isinstance(args[0], Node) else None
    if number is None or (len(args) > 1 and isinstance(args[1], Node)):
        return None
    if node.target in _REARRANGED:
        return number
    if _is(node, aten.neg.default):
        return -number
    factor = _factor(node)
    return number * factor if factor is not None and _held(number * factor, node) else None


def _repeats(node: Node, seen: dict[tuple, Node]) -> Node | None:
    """Return an earlier node that computed the same, if there is one; remember this one if not."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    key = (node.target, repr(node.args), repr(node.kwargs))
    earlier = seen.setdefault(key, node)
    return None if earlier is node else earlier


def _factor(node: object) -> float | None:
    """Return c where the node is x * c, x / c or -x with a number c and the tensor's own type, else None."""
    if not _computes(node) or node.kwargs or not _like(node.args[0], node) or not _value(node).is_floating_point():
        return None
    if _is(node, aten.neg.default):
        return -1.0
    number = node.args[1] if len(node.args) > 1 else None
    if not _held(number, node) or not number:
        return None
    if node.target in _TIMES:
        return float(number)
    return 1.0 / number if node.target in _OVER and _held(1.0 / number, node) else None


def _held(number: object, node: Node) -> bool:
    """Whether it is a number that the node's type holds without overflow or underflow, with room for a factor."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    limits = torch.finfo(_value(node).dtype)
    return number == 0 or limits.tiny**0.5 < abs(number) < limits.max**0.5


def _shorter(node: Node, filled: dict[Node, float]) -> Node | None:
    """Return a node with the same value and less work, or None."""
    args = node.args
    first = args[0] if args and isinstance(args[0], Node) else None
    if first is None:
        return None
    if _is(node, aten.detach.default, aten.alias.default):
        return first
    if (node.target in _RESHAPES or _is(node, aten.expand.default)) and _like(first, node):
        return first
    if node.target in _RESHAPES and _is(first, *_RESHAPES):
        return _call(node, aten.reshape.default, first.args[0], args[1])
    if _is(node, aten.t.default) and _is(first, aten.t.default):
        return first.args[0]
    if _is(node, aten.transpose.int) and _is(first, aten.transpose.int) and _swaps(node) == _swaps(first):
        return first.args[0]
    if _is(node, aten.pow.Tensor_Scalar) and args[1] == 1 and _like(first, node):
        return first
    if len(first.users) == 1 and _value(node).dim() and _transposes(node):
        # (x y)' = y' x': the result comes out in the layout in which it is used, and transpositions cancel.
        if _is(first, aten.bmm.default):
            x, y = (_transposed(node, operand, aten.transpose.int, 1, 2) for operand in first.args)
            return _call(node, aten.bmm.default, y, x)
        if _is(first, aten.mm.default):
            x, y = (_transposed(node, operand, aten.t.default) for operand in first.args)
            return _call(node, aten.mm.default, y, x)
    return _scaled(node, filled) or _summed(node, filled)


def _transposes(node: Node) -> bool:
    """Whether the node swaps the last two axes."""
    dims = _value(node).dim()
    if _is(node, aten.t.default):
        return dims == 2
    return _is(node, aten.transpose.int) and _swaps(node) == {dims - 1, dims - 2}


def _transposed(before: Node, operand: Node, target: object, *axes: int) -> Node:
    node = _call(before, target, operand, *axes)
    node.meta["val"] = _value(operand).mT
    return node


def _swaps(node: Node) -> set[int]:
    return {dim % max(_value(node).dim(), 1) for dim in node.args[1:]}


def _scaled(node: Node, filled: dict[Node, float]) -> Node | None:
    """Products: by a filled tensor, by 1, and of a product by a number."""
    if _is(node, aten.mul.Tensor) and isinstance(node.args[1], Node):
        for x, y in (node.args, node.args[::-1]):
            if y in filled and x not in filled and _like(x, node) and _value(y).dtype == _value(x).dtype:
                return x if filled[y] == 1 else _call(node, aten.mul.Scalar, x, filled[y])
        return None
    factor = _factor(node)
    if factor is None or node in filled:
        return None
    if factor == 1:
        return node.args[0]
    inner = node.args[0]
    inside = _factor(inner)
    if inside is not None and not _held(factor * inside, node):
        return None
    # A negation is free to fold; a longer chain only where nobody else needs its middle.
    if inside is not None and inner not in filled and (len(inner.users) == 1 or inside == -1):
        return _call(node, aten.mul.Scalar, inner.args[0], factor * inside)
    return None


def _summed(node: Node, filled: dict[Node, float]) -> Node | None:
    """Sums: with zero, and with a multiple, which one call does."""
    if not _is(node, aten.add.Tensor, aten.sub.Tensor) or node.kwargs or not isinstance(node.args[1], Node):
        return None
    x, y = node.args
    minus = _is(node, aten.sub.Tensor)
    if filled.get(y) == 0 and _like(x, node):
        return x
    if not minus and filled.get(x) == 0 and _like(y, node):
        return y
    for one, other in ((x, y),) if minus else ((x, y), (y, x)):
        factor = _factor(other)
        alone = other not in filled and len(other.users) == 1 and _value(one).dtype == _value(other).dtype
        if factor is not None and alone:
            return _call(node, node.target, one, other.args[0], alpha=factor)
    return None


def _merged(node: Node) -> Node | None:
    """Return one call for a sum with a matrix product, where nobody else needs the product."""
    if not _is(node, aten.add.Tensor) or node.kwargs or not isinstance(node.args[1], Node):
        return None
    for x, y in (node.args, node.args[::-1]):
        if not _computes(y) or len(y.users) > 1 or _value(x).dtype != _value(y).dtype or not _like(y, node):
            continue
        if _is(y, aten.bmm.default):
            return _call(node, aten.baddbmm.default, x, *y.args)
        if _is(y, aten.mm.default):
            return _call(node, aten.addmm.default, x, *y.args)
        product = y.args[0]
        rows = _value(y).shape[-1:]
        matrix = y.target in _RESHAPES and _is(product, aten.mm.default) and len(product.users) == 1
        if matrix and _value(x).shape == rows == _value(product).shape[-1:]:
            total = _call(node, aten.addmm.default, x, *product.args, like=product)
            return _call(node, aten.reshape.default, total, list(_value(y).shape))
    return None

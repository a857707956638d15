"""A function and the way back through it, recorded together and cut in two: the value first, the derivative later."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from scimeta.core.recording import (
    Execution,
    autocast_state,
    chosen_execution,
    compiled_or_none,
    first_line,
    inside_a_transform,
    recordings_of,
    signature,
    without_autocast,
)
from scimeta.core.simplify import memory_owners, node_arguments, simplify

Pull = Callable[[Any], tuple]
"""Cotangents in the shape of a function's value -> those of its differentiated arguments. To be called once."""

_MOST = 16  # recordings of one function; more shapes run eagerly


def record_pull(function: Callable[..., Any]) -> Callable[[tuple, tuple], tuple[Any, Pull]]:
    """Return (arguments, further ones that are not differentiated) -> (value, pull), recorded as by ``record``.

    What the way back needs of the way there is kept, so that a long chain of calls costs what one graph of the whole
    chain would, although only one link of it is ever recorded.

    Args:
        function: pure function of nests of tensors, all of them in a floating type where they are differentiated.

    >>> run = record_pull(lambda x, factor: factor * x**2)
    >>> value, pull = run((torch.tensor(3.0),), (torch.tensor(2.0),))
    >>> value, pull(torch.tensor(1.0))
    (tensor(18.), (tensor(12.),))
    """
    kept: dict[Any, Callable[[list[Tensor]], tuple[Any, Pull]] | None] = {}

    def eager(primals: tuple, others: tuple) -> tuple[Any, Pull]:
        return torch.func.vjp(lambda *primals: function(*primals, *others), *primals)

    @functools.wraps(function, updated=())
    def run(primals: tuple, others: tuple = ()) -> tuple[Any, Pull]:
        how = chosen_execution.get()
        if how == "eager" or inside_a_transform():
            return eager(primals, others)
        leaves, spec = pytree.tree_flatten((primals, others))
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return eager(primals, others)
        key, replays = (how, spec, autocast_state(), *map(signature, leaves)), recordings_of(kept)
        if key not in replays:
            replays[key] = _halves(function, primals, others, how) if len(replays) < _MOST else None
        replay = replays[key]
        return eager(primals, others) if replay is None else replay(leaves)

    return run


def _halves(
    function: Callable[..., Any], primals: tuple, others: tuple, how: Execution
) -> Callable[[list[Tensor]], tuple[Any, Pull]] | None:
    """Return flat arguments -> (value, pull), recorded, or None, after a warning, if that cannot be done."""
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and many scripts never record

    name = getattr(function, "__name__", "function")
    given, spec = pytree.tree_flatten((primals, others))
    given = [leaf.detach() for leaf in given]
    with torch.no_grad():
        slopes, value_spec = pytree.tree_flatten(function(*primals, *others))
    primal_spec = pytree.tree_structure(primals)

    def flat(*tensors: Tensor) -> list[Tensor]:
        primals, others = pytree.tree_unflatten(tensors[: len(given)], spec)
        value, vjp = torch.func.vjp(lambda *primals: function(*primals, *others), *primals)
        pulled = vjp(pytree.tree_unflatten(tensors[len(given) :], value_spec))
        return [*pytree.tree_leaves(value), *pytree.tree_leaves(pulled)]

    try:
        joint = simplify(make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*given, *slopes))
        there, back = cut(joint, len(given), len(slopes))
    except Exception as error:  # torch raises all kinds here; the eager run gives the true error, or none
        warnings.warn(f"{name} runs eagerly, since recording it failed: {first_line(error)}", stacklevel=4)
        return None
    go, come = there.forward, back.forward
    if how == "compiled":
        go = compiled_or_none(there, given, name) or go
        kept = list(there.forward(*given))[len(slopes) :]
        come = compiled_or_none(back, [*kept, *slopes], name) or come

    def replay(leaves: list[Tensor]) -> tuple[Any, Pull]:
        with torch.no_grad(), without_autocast():
            found = list(go(*leaves))
        value, kept = pytree.tree_unflatten(found[: len(slopes)], value_spec), found[len(slopes) :]

        def pull(cotangents: Any) -> tuple:
            with torch.no_grad(), without_autocast():
                return pytree.tree_unflatten(list(come(*kept, *pytree.tree_leaves(cotangents))), primal_spec)

        return value, pull

    return replay


def cut(joint: GraphModule, given: int, results: int) -> tuple[GraphModule, GraphModule]:
    """Return the part of a graph that does without its later inputs, and the rest of it.

    Args:
        joint: inputs: the given ones, then the later ones; results: those of the first part, then those of the second.
        given: number of inputs to the first part.
        results: number of results of the first part.

    Returns: given -> (results, kept); (kept, later inputs) -> the other results.

    Raises:
        ValueError: a tensor is written to in both parts.
    """
    *nodes, output = joint.graph.nodes
    late = _late(nodes, [node for node in nodes if node.op == "placeholder"][given:])
    first, second = list(output.args[0])[:results], list(output.args[0])[results:]
    if any(one in late for one in first):
        raise ValueError("a result is written to in place by what comes after it")
    wanted = [one for node in nodes if node in late for one in node.all_input_nodes]
    kept = list(dict.fromkeys(n for n in [*wanted, *second] if isinstance(n, Node) and n not in late))
    early = [node for node in nodes if node not in late]
    there = _graph(joint, early, [*first, *kept])
    back = _graph(joint, [*kept, *(node for node in nodes if node in late)], second, fed=len(kept))
    return there, back


def written_by(node: Node) -> list[Node]:
    """Return the nodes whose memory an operation writes to."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return []
    return [one for argument, values in node_arguments(node) if _is_written(argument) for one in values]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _late(nodes: list[Node], inputs: list[Node]) -> set[Node]:
    """Return the nodes that depend on these inputs, and the memory that such nodes write to, with all that reads it."""
    owners, late = memory_owners(nodes[0].graph), set(inputs)
    writes = [(node, set().union(*(owners[one] for one in written_by(node)))) for node in nodes if written_by(node)]
    before = -1
    while len(late) != before:
        before = len(late)
        for node in nodes:
            if any(one in late for one in node.all_input_nodes):
                late.add(node)
        late |= {owner for node, memory in writes if node in late for owner in memory}
    for node, memory in writes:
        reads = (one for one in nodes[: nodes.index(node)] if one in late and node not in late)
        if any(owners[value] & memory for one in reads for value in one.all_input_nodes):
            raise ValueError("what comes later reads a tensor before it is written to")
        if any(owner in late and owner.op == "placeholder" and owner not in inputs for owner in memory):
            raise ValueError("it writes to its arguments")
    return late


def _graph(joint: GraphModule, nodes: list[Node], results: list[Any], fed: int = 0) -> GraphModule:
    """Return a graph of these nodes, of which the first ``fed`` are handed in."""
    graph, copies = Graph(), {}
    for index, node in enumerate(nodes):
        if index < fed:
            copies[node] = graph.placeholder(f"kept_{index}")
            copies[node].meta = dict(node.meta)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[one] if isinstance(one, Node) else one for one in results])
    graph.lint()
    return GraphModule(joint, graph)

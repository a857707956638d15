"""A learned update rule as an ordinary PyTorch optimiser, and rules as files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from scimeta.core.checkpoint import has_parts, read_state, write_state
from scimeta.core.controller_rule import controller
from scimeta.core.learned_rule import coordinate_lstm, coordinate_mlp
from scimeta.core.rules import Rule
from scimeta.core.tasks import Params
from scimeta.core.trained import Trained
from scimeta.files import STATE

_KINDS: dict[str, Callable[..., Rule]] = {
    "coordinate_lstm": coordinate_lstm,
    "coordinate_mlp": coordinate_mlp,
    "controller": controller,
}
_HALVINGS = 7  # of the guard's step, before nothing moves


class LearnedOptimizer(Optimizer):
    """A rule, learned or classical, that moves the parameters of any PyTorch model.

    Each parameter group is one problem to the rule, with a state of its own. A parameter without gradient stays where
    it is; to the rule its gradient is zero.

    Args:
        params: parameters, named parameters or groups of them, as for every torch optimiser. Those of a group have one
            type, float32 or float64, and one device.
        rule: what moves them; of a ``Trained`` result, its learned rule.
        lr: the part of each of the rule's steps that is taken; an option of each group, so that schedulers work.
        guard: a classical rule. A step of ``rule`` after which the loss is higher, or not finite, is taken back, and
            one of the guard taken in its place, halved until the loss is no higher; where 1/128 of it does not help,
            nothing moves. Then ``rule`` starts anew. Needs ``step(closure)``, evaluates the closure at least twice a
            step and leaves the gradients of the last evaluation behind. With a loss of random minibatches the closure
            must see the same one throughout a step.

    Raises:
        TypeError: the rule is none.
        ValueError: parameters of other types, or for which the rule was not made.

    Reference: Andrychowicz et al., Learning to learn by gradient descent by gradient descent, NeurIPS 2016.

    >>> from scimeta.core.rules import momentum
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = LearnedOptimizer(model.parameters(), momentum(0.1))
    >>> model(torch.ones(2, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self, params: Iterable[Any], rule: Rule | Trained, *, lr: float = 1.0, guard: Rule | None = None
    ) -> None:
        self._rule = rule_of(rule, "LearnedOptimizer")
        self._guard = None if guard is None else rule_of(guard, "LearnedOptimizer, guard")
        super().__init__(params, {"lr": lr})

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy.deepcopy copies; torch's own leaves the rules out."""
        return {**super().__getstate__(), "_rule": self._rule, "_guard": self._guard}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; to the rule they are a problem of their own."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Tensor | float | None:
        """Return what the closure returned at the start of the step, after all parameters have been moved.

        Raises:
            ValueError: there is a guard, but no closure, or one that returns nothing; a gradient is sparse.
            FloatingPointError: a gradient is not finite (named; nothing has moved), or, with a guard, the loss.
        """
        if self._guard is not None and closure is None:
            raise ValueError(
                "LearnedOptimizer: the guard compares losses; call step(closure), where the closure clears the "
                "gradients, computes the loss, calls backward() and returns the loss"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._guard is not None and loss is None:
            raise ValueError("LearnedOptimizer: the closure returns the loss, which the guard compares; got None")
        if self._guard is not None and not math.isfinite(_number(loss)):
            raise FloatingPointError(
                f"LearnedOptimizer: the loss is {_number(loss)} before the step; nothing was moved"
            )
        active = [group for group in self.param_groups if any(p.grad is not None for p in group["params"])]
        gradients = [self._gradients(group) for group in active]
        moved = [self._moved("rule", self._rule, *pair) for pair in zip(active, gradients, strict=True)]
        if self._guard is None:
            for group, values in zip(active, moved, strict=True):
                _place(group, values)
            return loss
        # The guard sees every gradient, so that its averages are up to date when it is called.
        safe = [self._moved("guard", self._guard, *pair) for pair in zip(active, gradients, strict=True)]
        self._place_guarded(active, moved, safe, closure, _number(loss))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned, for the same rule and parameters of the same shapes.

        Raises:
            ValueError: other groups or parameters, or the state of another rule.
        """
        states, groups = state_dict["state"], state_dict["param_groups"]
        for group, saved in zip(self.param_groups, groups, strict=False):  # torch says it when their numbers differ
            self._check_state(states.get(saved["params"][0], {}), group)
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, groups, strict=True):
            first = group["params"][0]
            for name, leaves in states.get(saved["params"][0], {}).items():
                # In the types that they have: torch would give them those of the parameters.
                self.state[first][name] = [leaf.detach().clone().to(first.device) for leaf in leaves]

    def _rules(self) -> dict[str, Rule]:
        return {"rule": self._rule} | ({} if self._guard is None else {"guard": self._guard})

    def _gradients(self, group: dict[str, Any]) -> Params:
        found = {}
        for name, param in _named(group).items():
            grad = param.grad
            if grad is not None and grad.layout != torch.strided:
                raise ValueError(
                    f"LearnedOptimizer: the gradient of {name!r} is sparse; use dense ones (sparse=False), or another "
                    "optimiser for these parameters"
                )
            found[name] = torch.zeros_like(param) if grad is None else grad
        if not torch.stack([torch.isfinite(grad).all() for grad in found.values()]).all():
            name, grad = next((n, g) for n, g in found.items() if not torch.isfinite(g).all())
            bad = int((~torch.isfinite(grad)).sum())
            raise FloatingPointError(
                f"LearnedOptimizer: the gradient of {name!r} has {bad} of {grad.numel()} values that are not finite; "
                "nothing was moved"
            )
        return found

    def _moved(self, name: str, rule: Rule, group: dict[str, Any], grads: Params) -> Params:
        """Return where a rule takes the parameters of a group, and keep its new state."""
        params = {n: p.detach() for n, p in _named(group).items()}
        template, spec = pytree.tree_flatten(rule.init(params))
        kept = self.state[group["params"][0]]
        leaves = kept.get(name, template)
        moved, state = rule.update(_like(rule.params, params), grads, pytree.tree_unflatten(leaves, spec), params)
        kept[name] = [leaf.detach() for leaf in pytree.tree_leaves(state)]
        lr, moving = group["lr"], [n for n, p in _named(group).items() if p.grad is not None]
        return {n: moved[n] if lr == 1 else params[n] + lr * (moved[n] - params[n]) for n in moving}

    def _place_guarded(
        self, groups: list[dict], moved: list[Params], safe: list[Params], closure: Callable, loss: float
    ) -> None:
        """Move to where the rule goes if the loss is no higher there, else as far to where the guard goes as it is."""
        before = [
            {n: _named(group)[n].detach().clone() for n in values} for group, values in zip(groups, moved, strict=True)
        ]

        def lower(values: list[Params]) -> bool:
            for group, value in zip(groups, values, strict=True):
                _place(group, value)
            with torch.enable_grad():
                return _number(closure()) <= loss

        if lower(moved):
            return
        for group in groups:
            self.state[group["params"][0]].pop("rule")
        for halving in range(_HALVINGS + 1):
            part = 0.5**halving
            ways = zip(before, safe, strict=True)
            if lower([{n: p + part * (there[n] - p) for n, p in start.items()} for start, there in ways]):
                return
        for group, value in zip(groups, before, strict=True):
            _place(group, value)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError unless the parameters are of one kind and the rules take them."""
        params = _named(group)
        if not params:
            raise ValueError("LearnedOptimizer: a parameter group is empty")
        if not group["lr"] > 0:
            raise ValueError(
                f"LearnedOptimizer: lr is a positive number, 1 for the rule's own steps; got {group['lr']!r}"
            )
        kinds = {(str(p.dtype).removeprefix("torch."), str(p.device)): name for name, p in params.items()}
        if len(kinds) > 1 or next(iter(kinds))[0] not in ("float32", "float64"):
            found = ", ".join(f"{dtype} on {device} ({name!r})" for (dtype, device), name in kinds.items())
            raise ValueError(
                "LearnedOptimizer: the parameters of a group have one type, float32 or float64, and one device; got "
                f"{found}. Convert them, or put each kind in a group of its own"
            )
        for rule in self._rules().values():
            values = {name: param.detach() for name, param in params.items()}
            try:
                with torch.no_grad():
                    still = {name: torch.zeros_like(value) for name, value in values.items()}
                    moved, _ = rule.update(_like(rule.params, values), still, rule.init(values), values)
                fits = moved.keys() == values.keys() and all(moved[n].shape == p.shape for n, p in values.items())
                why = "it returns other shapes"
            except (KeyError, RuntimeError) as error:
                fits, why = False, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            if not fits:
                shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(values.items())[:8])
                raise ValueError(
                    f"LearnedOptimizer: the rule does not fit the parameters {shapes} ({why}); a rule with numbers for "
                    "every element serves the names and shapes that it was made for alone"
                )

    def _check_state(self, saved: dict[str, Any], group: dict[str, Any]) -> None:
        """Raise ValueError if a saved state of a group is not one of the rules'."""
        if unknown := [name for name in saved if name not in ("rule", "guard")]:
            raise ValueError(f"LearnedOptimizer: the saved state is another optimiser's; it holds {', '.join(unknown)}")
        params = {name: param.detach() for name, param in _named(group).items()}
        for name, rule in self._rules().items():
            leaves = pytree.tree_leaves(rule.init(params))
            now, then = ([tuple(leaf.shape) for leaf in each] for each in (leaves, saved.get(name, leaves)))
            if now != then:
                raise ValueError(
                    f"LearnedOptimizer: the saved state is not one of this {name}: it holds tensors of shapes {then}, "
                    f"where the {name} has {now}. Build the optimiser with the rule and the parameters that it had"
                )


def rule_of(trained: Rule | Trained, where: str = "rule_of") -> Rule:
    """Return the rule that was learned; a rule as it is.

    >>> from scimeta.core.rules import sgd
    >>> rule_of(sgd(0.1)).params
    {}
    """
    if isinstance(trained, Trained):
        return trained.learner.adapt.rule._replace(params=trained.meta.rule)
    if not isinstance(trained, Rule):
        raise TypeError(
            f"{where}: the rule is a Rule (from load_rule, or such as momentum(0.1)) or what meta_train returned; "
            f"got {type(trained).__name__}"
        )
    return trained


def save_rule(rule: Rule | Trained, path: str | Path, *, kind: str, sizes: Mapping[str, Any] | None = None) -> Path:
    """Return ``path`` after the rule has been written to it: its kind, its sizes and its parameters, no code.

    Wrappers (``clipped``, ``guarded``) have no parameters of their own and are not saved: put them around again.

    Args:
        rule: of a kind that :func:`load_rule` knows.
        path: a .safetensors file, replaced if it is there.
        kind: the name of the function that made the rule: "coordinate_lstm", "coordinate_mlp" or "controller".
        sizes: the arguments that it was called with (numbers, texts, sequences of them; no generator). Those that
            change no parameter's shape, such as the lengths of a controller's ``memory``, are taken at your word.

    Raises:
        ValueError: an unknown kind, one that has parameters of other names or shapes with these sizes, or a path with
            the suffix of another format.
    """
    rule, sizes = rule_of(rule, "save_rule"), dict(sizes or {})
    _check_shapes(_made(kind, sizes, "save_rule"), rule.params, f"save_rule: {_call(kind, sizes)}")
    return write_state(path, {"rule": {"kind": kind, "sizes": sizes}, "params": rule.params}, STATE)


def load_rule(path: str | Path) -> Rule:
    """Return the rule that :func:`save_rule` wrote, on the CPU. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds no rule, or one of a kind or size that is not known here.
    """
    state = read_state(path)
    if not has_parts(state, "rule", "params") or not isinstance(state["rule"].get("kind"), str):
        raise ValueError(f"{path} holds no update rule; save_rule writes one")
    kind, sizes = state["rule"]["kind"], state["rule"]["sizes"]
    made = _made(kind, sizes, str(path))
    _check_shapes(made, state["params"], f"{path}: {_call(kind, sizes)}")
    return made._replace(params={name: state["params"][name] for name in made.params})


def _made(kind: str, sizes: dict[str, Any], where: str) -> Rule:
    if kind not in _KINDS:
        raise ValueError(f"{where}: {kind!r} is no kind of rule; there are {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {_call(kind, sizes)} makes no rule: {error}") from error


def _call(kind: str, sizes: dict[str, Any]) -> str:
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in sizes.items())})"


def _check_shapes(made: Rule, params: Params, where: str) -> None:
    now, then = ({name: tuple(value.shape) for name, value in p.items()} for p in (made.params, params))
    if now != then:
        raise ValueError(f"{where} has parameters {now}, but these are {then}; name the sizes it was made with")


def _number(loss: Tensor | float) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _named(group: dict[str, Any]) -> Params:
    names = group.get("param_names") or [str(index) for index in range(len(group["params"]))]
    return dict(zip(names, group["params"], strict=True))


def _like(learned: Params, params: Params) -> Params:
    """Return the rule's parameters in the type and on the device of what it moves."""
    some = next(iter(params.values()))
    return {name: value.detach().to(some) for name, value in learned.items()}


def _place(group: dict[str, Any], values: Params) -> None:
    params = _named(group)
    for name, value in values.items():
        params[name].copy_(value)

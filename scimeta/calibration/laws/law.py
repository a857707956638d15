"""A classical law: a pure function whose parameters have names, units and supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.core.tasks import over_tasks


@dataclass(frozen=True)
class Parameter:
    """What is known of a law's parameter before any data.

    Args:
        unit: its unit, as text; "" if it has none.
        support: the values that it can take, and the scale on which populations are Gaussian: "real", as it is;
            "positive", by its logarithm, for quantities that spread over magnitudes; "softplus", positive too, but
            u in value = log(1 + exp(u)), nearly the value itself where it is above one: for exponents and other
            numbers of order one; "unit" (0, 1), by its logit.
        shared: True if one value holds for all specimens of a family (a friction, an activation energy); False if
            each specimen has its own.
    """

    unit: str = ""
    support: Literal["real", "positive", "softplus", "unit"] = "real"
    shared: bool = False

    def __post_init__(self) -> None:
        if self.support not in _TO_VALUE:
            raise ValueError(f"support must be one of {', '.join(_TO_VALUE)}; got {self.support!r}")


_TO_VALUE = {
    "real": lambda u: u,
    "positive": torch.exp,
    "softplus": lambda u: torch.logaddexp(u, torch.zeros_like(u)),
    "unit": torch.sigmoid,
}
_TO_UNCONSTRAINED = {
    "real": lambda v: v,
    "positive": torch.log,
    "softplus": lambda v: v + torch.log(-torch.expm1(-v)),
    "unit": torch.logit,
}


@dataclass(frozen=True, eq=False)
class Law:
    """A classical model: y = fn(x, parameters).

    Args:
        name: what reports call it.
        fn: ``fn(x, **parameters)``, written for one specimen in torch operations: x has shape (points,), each
            parameter is a scalar tensor, and (points,) comes back. Finite and differentiable wherever the supports
            allow.
        parameters: name -> :class:`Parameter`, in the order in which reports show them.
        x: name and unit of the abscissa.
        y: name and unit of the ordinate.
        first_guess: optional ``first_guess(x, y)`` from the points of one specimen (two NumPy arrays) to a dict of
            starting values; a guess may be crude but must be finite and inside the supports.
        check: optional ``check(x, y)`` that raises ValueError where the numbers cannot be what the law describes
            (negative times, percent for fractions).

    Raises:
        ValueError: the law has no parameters or a name that Python cannot pass as a keyword.

    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")},
    ...             x=Axis("time", "s"), y=Axis("signal"))
    >>> decay(torch.tensor([0.0, 2.0]), tau=2.0)
    tensor([1.0000, 0.3679])
    """

    name: str
    fn: Callable[..., Tensor]
    parameters: Mapping[str, Parameter]
    x: Axis = field(default=Axis("x"))
    y: Axis = field(default=Axis("y"))
    first_guess: Callable[..., Mapping[str, float]] | None = None
    check: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError(f"law {self.name} has no parameters; name at least one")
        for name, parameter in self.parameters.items():
            if not name.isidentifier():
                raise ValueError(f"law {self.name}: parameter name {name!r} is not a Python identifier")
            if not isinstance(parameter, Parameter):
                raise TypeError(f"law {self.name}: parameter {name} must be a Parameter; got {parameter!r}")
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "x", Axis(*self.x))
        object.__setattr__(self, "y", Axis(*self.y))

    def __call__(self, x: Tensor | np.ndarray | Sequence[float], **values: float | Tensor) -> Tensor:
        """Return fn(x, values): (points,), in the unit of y, from x and values in natural units."""
        self.require(values)
        x = x if isinstance(x, Tensor) else torch.as_tensor(np.array(x, dtype=float))
        return self.fn(x, **{name: torch.as_tensor(values[name], dtype=x.dtype) for name in self.parameters})

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(self.parameters)

    @property
    def fast(self) -> tuple[str, ...]:
        """Names of the parameters that each specimen has of its own."""
        return tuple(name for name, parameter in self.parameters.items() if not parameter.shared)

    def describe(self) -> str:
        """Return the parameters with their units in one line: ``k [1/s], n``."""
        return ", ".join(f"{name} [{p.unit}]" if p.unit else name for name, p in self.parameters.items())

    def require(self, names: Mapping[str, object]) -> None:
        """Raise ValueError unless ``names`` are exactly the law's parameters."""
        for name in names:
            if name not in self.parameters:
                raise ValueError(f"Unknown parameter {name!r} of law {self.name}; it has {self.describe()}")
        missing = [name for name in self.parameters if name not in names]
        if missing:
            raise ValueError(f"law {self.name}: no value for {', '.join(missing)}; it has {self.describe()}")

    def constrain(self, unconstrained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return natural values from unconstrained ones, each of any shape."""
        return {name: _TO_VALUE[self.parameters[name].support](u) for name, u in unconstrained.items()}

    def unconstrain(self, values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        """Return unconstrained values from natural ones; raises ValueError outside a support."""
        result = {}
        for name, value in values.items():
            u = _TO_UNCONSTRAINED[self.parameters[name].support](torch.as_tensor(value, dtype=torch.float64))
            if not torch.isfinite(u).all():
                support = self.parameters[name].support
                raise ValueError(f"{name} = {value} lies outside its support ({support}) in law {self.name}")
            result[name] = u
        return result

    def curve(self, unconstrained: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return y for batches of unconstrained parameters.

        Args:
            unconstrained: name -> (...,), all of one shape.
            x: (..., points), with leading axes that broadcast with the parameters'.
        Returns: (..., points).
        """
        values = self.constrain(unconstrained)
        if self.pointwise:
            return self.fn(x, **{name: value[..., None] for name, value in values.items()})
        lead = torch.broadcast_shapes(x.shape[:-1], next(iter(values.values())).shape)
        flat = {name: value.expand(lead).reshape(-1) for name, value in values.items()}
        rows = x.expand(*lead, x.shape[-1]).reshape(-1, x.shape[-1])
        y = over_tasks(lambda p, row: self.fn(row, **p))(flat, rows)
        return y.reshape(*lead, x.shape[-1])

    def linearized(self, unconstrained: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the curve of each specimen and its derivatives by the unconstrained parameters.

        For a pointwise law one backward pass gives all of them: each parameter is copied to every point, and the
        gradient of the sum by the copies is the Jacobian.

        Args:
            unconstrained: name -> (specimens,).
            x: (specimens, points).
        Returns: (specimens, points) and name -> (specimens, points).
        """
        if not self.pointwise:
            one = over_tasks(torch.func.jacfwd(lambda u, row: self.fn(row, **self.constrain(u))))
            return self.curve(unconstrained, x), one(dict(unconstrained), x)
        with torch.enable_grad():
            copies = {n: u.detach()[:, None].expand(x.shape).clone().requires_grad_() for n, u in unconstrained.items()}
            y = self.fn(x, **self.constrain(copies))
            gradients = torch.autograd.grad(y.sum(), list(copies.values()), materialize_grads=True, allow_unused=True)
        return y.detach(), dict(zip(copies, gradients, strict=True))

    @cached_property
    def pointwise(self) -> bool:
        """True if y at a point depends on x at that point alone, and parameters broadcast with x.

        Found by trying: points together, each with its own parameters, must give what each gives alone. Then a batch of
        specimens is one broadcast call, some ten times faster for a single specimen than the general path, which is
        taken for laws that integrate along x.
        """
        x = torch.linspace(0.6, 1.4, 6, dtype=torch.float64).reshape(2, 3)
        u = torch.linspace(0.2, 0.5, 6, dtype=torch.float64).reshape(2, 3)
        values = self.constrain({name: u.roll(i) for i, name in enumerate(self.parameters)})
        try:
            together = self.fn(x, **values)
            if together.shape != x.shape:
                return False
            alone = [self.fn(x[i, j : j + 1], **{n: v[i, j] for n, v in values.items()}) for i, j in np.ndindex(2, 3)]
            return torch.allclose(together, torch.cat(alone).reshape(2, 3), rtol=1e-12, atol=0.0)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False

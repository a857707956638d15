"""What a weighing leaves over of a trial's torques: whether that is noise, or the model has no word for it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

_FRICTION_SPEED = 0.02  # rad/s
_ROUNDING = 1e-6  # Nm; less than any sensor tells


class ResidualTest(NamedTuple):
    """When a trial's residual, the root mean square of its torques left over in units of their noise, is too large.

    It is where it exceeds `slack` times the residual that noise alone exceeds with `probability`, by a chi-square
    distribution where the noise is known and by an F distribution where it is taken from the trial itself, with the
    trial's degrees of freedom. A weighing with a known noise is judged by both: a noise that was learned may hide what
    the model lacks.

    Attributes:
        probability: of noise alone.
        slack: how much larger than the noise the residual of a healthy arm may be, because no model is perfect.
        share: of a known noise that the torques left over must reach before they are judged by the trial's own.
        fewest: degrees of freedom below which a trial is not tested.
    """

    probability: float = 1e-4
    slack: float = 1.2
    share: float = 0.5
    fewest: int = 5


class Residual(NamedTuple):
    """Of one trial or many.

    Attributes:
        size: (...,) root mean square of the torques left over, in units of their noise; nan where it cannot be told.
        above: (...,) bool, whether that is far above noise.
    """

    size: Tensor
    above: Tensor


def against_noise(squares: Tensor, freedom: Tensor, test: ResidualTest, usual: float = 1.0) -> Residual:
    """Return the residuals of trials whose noise is known.

    Args:
        squares: (...,) squared torques left over, whitened by their noise, summed.
        freedom: (...,) what they would be if the model were right, on average.
        test: when a residual is too large.
        usual: the residual of this arm's healthy trials, where it is known.
    """
    told = freedom >= test.fewest
    freedom = freedom.clamp(min=1)
    size = torch.where(told, (squares / freedom).sqrt(), torch.nan)
    noise = torch.as_tensor(stats.chi2.isf(test.probability, freedom.detach().numpy())) / freedom
    return Residual(size, size > test.slack * max(1.0, usual) * noise.sqrt())


def degrees_of_freedom(rows: Tensor, information: Tensor) -> Tensor:
    """Return (...,) the mean of the squares left over, if the model is right: rows less what the data settle.

    Args:
        rows: (..., samples, n).
        information: (..., k, k) of the unknowns in units of their prior.
    """
    eye = torch.eye(information.shape[-1], dtype=information.dtype)
    shrunk = torch.linalg.inv(information + eye).diagonal(dim1=-2, dim2=-1).sum(-1)
    return rows.shape[-2] * rows.shape[-1] - information.shape[-1] + shrunk


def against_itself(left: Tensor, regressor: Tensor, speed: Tensor, rate: Tensor, test: ResidualTest) -> Residual:
    """Return the residuals of a least squares fit, whose noise is taken from them.

    The noise is what remains once each joint has an offset, friction and an inertia of its own beside the fit: a wrong
    arm leaves those over, noise does not care for them. This is the F test of omitted regressors.

    Args:
        left: (..., samples, n) Nm, what the fit left over.
        regressor: (..., samples n, unknowns) of the fit.
        speed, rate: (..., samples, n) velocities, rad/s, and accelerations, rad/s^2.
        test: when a residual is too large.
    Reference: Draper and Smith, Applied Regression Analysis (1998), section 6.1.
    """
    own = torch.stack((torch.ones_like(speed), (speed / _FRICTION_SPEED).tanh(), speed, rate), -1)
    both = torch.cat((regressor.unflatten(-2, left.shape[-2:]), left[..., None]), -1)  # (..., samples, n, unknowns + 1)
    # What a joint has of its own stands in its rows alone.
    both, count = _less(both.transpose(-3, -2), own.transpose(-3, -2))
    both = both.flatten(-3, -2)
    rest, unknowns = _less(both[..., -1:], both[..., :-1])
    flat, rest = left.flatten(-2), rest[..., 0]
    freedom = torch.as_tensor(flat.shape[-1] - regressor.shape[-1])
    fewer = flat.shape[-1] - count.sum(-1) - unknowns
    told = fewer >= test.fewest
    fewer = fewer.clamp(min=1)
    noise = rest.square().sum(-1) / fewer
    size = torch.where(told, (flat.square().sum(-1) / freedom / noise.clamp(min=_ROUNDING**2)).sqrt(), torch.nan)
    extra = (freedom - fewer).clamp(min=1)
    quantile = torch.as_tensor(stats.f.isf(test.probability, extra.numpy(), fewer.numpy()))
    return Residual(size, size > test.slack * ((1 + quantile * extra / fewer) * fewer / freedom).sqrt())


def _less(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What of values (..., rows, m) columns (..., rows, k) do not explain, and how many of these are independent."""
    columns = columns / columns.norm(dim=-2, keepdim=True).clamp(min=1e-12)
    sizes, axes = torch.linalg.eigh(columns.mT @ columns)
    seen = sizes > 1e-12 * sizes[..., -1:].clamp(min=1e-12)
    shares = (axes.mT @ (columns.mT @ values)) * torch.where(seen, 1 / sizes.clamp(min=1e-300), 0.0)[..., None]
    return values - columns @ (axes @ shares), seen.sum(-1)


def by_both(known: Residual, own: Residual, test: ResidualTest) -> Residual:
    """Return the residuals by a known noise, and by the trial's own where that alone shows them to be too large."""
    above = own.above & (known.size > test.share)
    return Residual(torch.where(above, torch.fmax(known.size, own.size), known.size), known.above | above)


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Without a word of residuals, where a table shows them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the torques left over", category=UserWarning)
        yield


def warn_above_noise(residual: Residual) -> None:
    """Warn once of the trials whose residuals are far above noise."""
    if not residual.above.any():
        return
    which = residual.above.reshape(-1).nonzero()[:, 0].tolist()
    names = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
    trials = f"trial {names}" if len(which) == 1 else f"trials {names} ({len(which)} of {residual.above.numel()})"
    worst = residual.size[residual.above].max().item()
    warnings.warn(
        f"{trials}: the torques left over are up to {worst:.3g} times their noise, so "
        "intervals are withheld: the arm is not as modelled (another unit or mounting; a gripper or rotor inertia "
        "that the model lacks), or it touched something",
        stacklevel=3,
    )

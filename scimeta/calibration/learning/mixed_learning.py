"""Learning a linear mixed model: its numbers by restricted likelihood, the modes by Gauss-Newton, in turn.

Reference: Lindstrom, Bates, Biometrics 46, 673 (1990).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import KNOTS, Coordinate, Discrepancy
from scimeta.calibration.family.error_model import LEAST, ErrorModel
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.mixed_model import (
    UNIT,
    Basis,
    Blocks,
    Form,
    Layout,
    Mixed,
    MixedPast,
    Problem,
    own_root,
)
from scimeta.calibration.learning.mixed_modes import Centre, Place, modes, placed, slopes
from scimeta.calibration.learning.past import regressed
from scimeta.calibration.learning.restricted_likelihood import Reduced, columns_of, first_numbers, maximised, reduced

_MODE_STEPS = 3  # Gauss-Newton steps a round: the next round takes them further
_SETTLED, _STILL = 0.02, 0.03  # nats, and standard deviations of the modes: a round that moves less is the last
_LEAST_ROUNDS = 3  # the frame of a smooth curve is chosen in the first two
_EVEN = {"prediction": 0.9, "x": 0.5}  # share of even spacing in the knots; the rest follows the readings
_IMITATED = 1e-6  # singular value, of columns of length 1, above which the parameters imitate a curve
_REACH = 100.0  # standard deviations at the beginning by which a coefficient of the mean moves in a round at most
_STRIDE = 1.0  # unconstrained units by which a shared parameter moves in a round at most


class State(NamedTuple):
    """Where the learning stands.

    Attributes:
        eta: the few numbers.
        theta: (specimens, fast) modes.
        beta: (regressors, fast) coefficients of their mean.
        shared: (shared,) values.
        coefficients: of late start and common curve; None before the first round.
        nll: minus the restricted log likelihood.
    """

    eta: Tensor
    theta: Tensor
    beta: Tensor
    shared: Tensor
    coefficients: Tensor | None
    nll: float


class Round(NamedTuple):
    """A round of the learning: the family linearised, what followed from it, and where that led."""

    blocks: Blocks
    out: Reduced
    state: State


def learn_mixed(
    law: Law,
    past: MixedPast,
    form: Form,
    theta: Tensor,
    shared: Tensor,
    noise: float,
    covariance: Tensor,
    warm: Mixed | None = None,
    rounds: int = 8,
    inner: int = 10,
) -> Mixed:
    """Return the mixed model of that form.

    A round linearises the family at the modes, maximises the restricted likelihood over the few numbers, and moves
    fixed numbers and modes to what follows.

    Args:
        law: the law.
        past: what is learned from.
        form: the structure.
        theta: (specimens, fast) unconstrained parameters to begin with.
        shared: (shared,) the same of the shared parameters.
        noise: standard deviation to begin with, in the unit of y.
        covariance: (fast, fast) between specimens, to begin with; it weighs the derivatives in the envelope.
        warm: a model already learned from this past, from which the numbers go on.
        rounds: the most rounds.
        inner: steps of L-BFGS in a round.

    Raises:
        torch.linalg.LinAlgError: the likelihood cannot be computed.
    """
    data = past.data
    typical = float(data.y[data.mask].square().mean().sqrt())
    problem = Problem(law, past, Layout(form, len(law.fast)), {}, typical, first_x(data) if form.start else 0.0)
    beta = regressed(past.design, theta) if warm is None else warm.beta
    shared = shared if warm is None else warm.shared
    state = State(first_numbers(problem, noise, covariance, warm), theta, beta, shared, None, np.inf)
    reach = _REACH * covariance.diagonal().sqrt()
    known, last, converged = {} if warm is None else warm.problem.basis, None, False
    for turn in range(rounds):
        if form.smooth and turn < _LEAST_ROUNDS - 1:
            problem = problem._replace(basis=bases(problem, state, covariance, known))
        before = state
        last = one_round(problem, state, inner, reach)
        state = last.state
        sd = problem.layout.covariance(state.eta, "own_covariance").diagonal().sqrt()
        moved = float(((state.theta - before.theta).abs() / sd).max())
        converged = turn + 1 >= _LEAST_ROUNDS and abs(before.nll - state.nll) < _SETTLED and moved < _STILL
        if converged:
            break
    if last is None:
        raise ValueError(f"rounds must be 1 or more; got {rounds}")
    return _learned(problem, last, converged)


def one_round(problem: Problem, state: State, inner: int, reach: Tensor) -> Round:
    """Return the family linearised at the state, and the state that follows.

    Args:
        problem: past and structure.
        state: where the learning stands.
        inner: steps of L-BFGS.
        reach: (fast,) by how much a coefficient of the mean may move: one of which the past says nothing would go far.
    """
    past, data = problem.past, problem.past.data
    (p, fast), shared_count = state.beta.shape, len(state.shared)
    place = placed(problem, state.theta, state.shared)
    J = slopes(problem, place, lambda moved: placed(problem, moved, state.shared), state.theta, state.coefficients)
    off = state.theta - past.design @ state.beta
    r = torch.where(data.mask, data.y - place.f, 0.0) + (J @ off[..., None])[..., 0]
    blocks = Blocks(r, place.f, J, place.slow, place.phi, place.late)
    columns = columns_of(problem, blocks)
    eta, nll = maximised(problem, state.eta, blocks, columns, inner)
    with torch.no_grad():
        out = reduced(problem, eta, blocks, columns)
    beta = state.beta + out.fixed[: p * fast].reshape(fast, p).T.clamp(-reach, reach)
    step = out.fixed[p * fast : p * fast + shared_count]
    shared, coefficients = state.shared + step.clamp(-_STRIDE, _STRIDE), out.fixed[p * fast + shared_count :]
    mean = past.design @ beta
    if out.group is not None and past.group is not None:
        mean = mean + out.group[past.group]
    centre = Centre(mean, problem.layout.covariance(eta, "own_covariance"), coefficients)
    theta = modes(problem, eta, state.theta, shared, centre, _MODE_STEPS)
    return Round(blocks, out, State(eta, theta, beta, shared, coefficients, nll))


def bases(problem: Problem, state: State, covariance: Tensor, known: dict[str, Basis]) -> dict[str, Basis]:
    """Return the frames of the form's smooth curves: those already known, else at the state's modes."""
    place = placed(problem, state.theta, state.shared)
    return {
        name: known.get(name) or basis_for(name, problem.past.data, place, covariance)
        for name in problem.form.coordinates
    }


def basis_for(coordinate: Coordinate, data: Measured, place: Place, population: Tensor) -> Basis:
    """Return knots, envelope and the directions that no common change of the parameters imitates.

    A direction u is imitated where sum_i J_i' Phi_i u is not 0: the others are the null space of that.

    Reference: Plumlee, J. Am. Stat. Assoc. 112, 1274 (2017).
    """
    mask, scale = data.mask, 0.0
    if coordinate == "x":
        scale = float(data.x[mask].median()) if float(data.x[mask].min()) >= 0 else 0.0
        s = torch.log1p(data.x[mask] / scale) if scale else data.x[mask]
    else:
        s = place.f[mask]
    ranks = np.quantile(s.numpy(), np.linspace(0, 1, KNOTS))
    even = _EVEN[coordinate]
    knots = (1.0 - even) * ranks + even * np.linspace(ranks[0], ranks[-1], KNOTS)
    none, size = np.zeros((KNOTS, KNOTS)), float(data.y[mask].abs().max())
    frame = Discrepancy((coordinate,), (knots,), np.zeros(KNOTS), none, none, population.numpy(), size, x_scale=scale)
    phi = frame.columns(frame.placed(data.x, place.f, place.J, None)) * mask[..., None]
    shared = (phi.mT @ torch.cat([place.J, place.slow], -1)).sum(0)
    shared = shared / shared.norm(dim=0).clamp(min=1e-300)
    left, values, _ = torch.linalg.svd(shared, full_matrices=True)
    return Basis(frame, left[:, int((values > _IMITATED).sum()) :])


def first_x(data: Measured) -> float:
    """Return the smallest positive x of the median specimen, the unit of a late start; 0 if no x is positive."""
    positive = torch.where(data.mask & (data.x > 0), data.x, torch.inf).amin(-1)
    positive = positive[torch.isfinite(positive)]
    return float(positive.median()) if len(positive) else 0.0


def _learned(problem: Problem, last: Round, converged: bool) -> Mixed:
    """Return the model at the end of the last round."""
    state, layout, form, V = last.state, problem.layout, problem.form, last.out.covariance
    p, fast = state.beta.shape
    at, rest = p * fast, p * fast + len(state.shared)
    discrepancy = discrepancy_of(problem, last, rest) if form.parts else None
    return Mixed(
        problem,
        state.eta,
        state.beta,
        V[:at, :at].reshape(fast, p, fast, p).permute(1, 0, 3, 2),
        state.shared,
        V.diagonal()[at:rest].clamp(min=0.0).sqrt(),
        float(state.eta[layout.at["noise"].start].exp()),
        error_model_of(problem, state.eta),
        discrepancy,
        layout.covariance(state.eta, "own_covariance"),
        layout.covariance(state.eta, "group_covariance") if form.groups else None,
        state.theta,
        state.nll,
        last.blocks,
        last.out.fixed[rest:],
        converged,
    )


def error_model_of(problem: Problem, eta: Tensor) -> ErrorModel:
    """Return the error model at the numbers that were learned."""
    kind, numbers = problem.form.noise, eta[problem.layout.at["noise"]]
    if kind == "constant":
        return ErrorModel()
    share = float(torch.sigmoid(numbers[1])) if kind == "combined" else 0.0
    power = float(numbers[1]) if kind == "power" else 1.0
    return ErrorModel(kind, share, power, problem.typical, LEAST * problem.typical)


def discrepancy_of(problem: Problem, last: Round, begin: int) -> Discrepancy:
    """Return the discrepancy at its knots, and its start, from the numbers that were learned.

    Args:
        problem: past and structure.
        last: the last round.
        begin: place of the late start's and the common curve's coefficients among the fixed numbers.
    """
    form, basis, names = problem.form, problem.basis, problem.form.coordinates
    place = {name: slice(KNOTS * i, KNOTS * (i + 1)) for i, name in enumerate(names)}
    n = KNOTS * len(names)
    size = n + form.start
    lift = torch.zeros(size, len(last.out.fixed) - begin, dtype=UNIT)  # fixed numbers -> columns
    if form.start:
        lift[n, 0] = 1.0
    if form.common:
        lift[place[form.common], int(form.start) :] = basis[form.common].free
    mean = lift @ last.out.fixed[begin:]
    mean_covariance = lift @ last.out.covariance[begin:, begin:] @ lift.T
    covariance = _own_covariance(problem, last.state.eta, place, size)
    # The own curves' mean is taken for zero, which so many groups or specimens know no better.
    mean_covariance = mean_covariance + covariance / (problem.past.groups or len(problem.past.design))
    numbers = (mean.numpy(), covariance.numpy(), mean_covariance.numpy())
    own = problem.layout.covariance(last.state.eta, "own_covariance").numpy()
    if not names:
        return Discrepancy((), (), *numbers, own, start=problem.step)
    frame, scale = basis[names[0]].frame, max(basis[name].frame.x_scale for name in names)
    knots = tuple(basis[name].frame.knots[0] for name in names)
    return Discrepancy(names, knots, *numbers, frame.population, frame.size, frame.taper, scale, problem.step)


def _own_covariance(problem: Problem, eta: Tensor, place: dict[str, slice], size: int) -> Tensor:
    """Return (size, size) the covariance of a specimen's own coefficients at the knots, the start last."""
    form, root = problem.form, own_root(problem, eta)
    if root is None:
        return torch.zeros(size, size, dtype=UNIT)
    lift, count = torch.zeros(size, len(root), dtype=UNIT), 0
    if form.own:
        free = problem.basis[form.own].free
        count = free.shape[1]
        lift[place[form.own], :count] = free
    if form.start:
        lift[-1, count] = 1.0
    lifted = lift @ root
    return lifted @ lifted.T

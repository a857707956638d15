"""What a past may show beyond one Gaussian, a right law and plain noise; each part is kept only if it helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.family.error_model import Kind
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import widening
from scimeta.calibration.family.outliers import first_outliers
from scimeta.calibration.learning.components import GAIN, chosen_components
from scimeta.calibration.learning.em import Loop, State
from scimeta.calibration.learning.held_out import coverage
from scimeta.calibration.learning.mixed_model import Mixed, MixedPast
from scimeta.calibration.learning.past import Past
from scimeta.calibration.learning.predictive import move_means, scores
from scimeta.calibration.learning.residuals import even_residuals, wrong_points
from scimeta.calibration.learning.restricted_likelihood import LinAlgError
from scimeta.calibration.learning.structure import choose

_CHANCE_GATHERED = 0.01  # that outliers prefer a part of x by luck
_CHANCE_MOVED = 0.025  # that they gain by moved means by luck: two standard errors
_NATS = 10.0  # of log likelihood that outliers must explain, three numbers more than a Gaussian has
_FEW = 20  # points below which no outliers are sought
_ALONE = 0.3  # of the outliers may have another one next to them, beyond chance
_MOST_WRONG = 0.3  # of the points may be outliers
_GLANCE, _TRIAL = 8, 25  # iterations of a first and a second look
_FOLDS, _MANY = 10, 25  # half as many of so many specimens


def refined(
    loop: Loop, state: State, components: int | Literal["auto"], objective: str, kinds: Sequence[Kind]
) -> State:
    """Return the state with all that the past shows; arguments as for ``learn_prior``.

    The error model comes first, then what the law misses and the groups, by a mixed model; outliers are sought where
    nothing of the kind was found, for they exclude it: outliers are independent of each other, what a law misses joins
    neighbours. Where outliers gather in one part of x, components are tried first. Coverage by groups is told where the
    mixed model is the one that is believed.
    """
    mixed = _mixed(loop, state, kinds)
    end = _settled(loop, state, mixed, components, objective)
    if mixed is None or loop.past.group is None or len(end.family.weights) > 1 or end.family.outliers is not None:
        return end
    return end._replace(coverage=coverage(mixed))


def _settled(loop: Loop, state: State, mixed: Mixed | None, components: int | Literal["auto"], objective: str) -> State:
    """Return the state with the error model, and what else is found."""
    if mixed is not None and mixed.form.noise != "constant":
        noisy = replace(state.family, noise=mixed.noise, error_model=mixed.error_model)
        state = loop.run(noisy, state.found.mode)
    found = mixed if mixed is not None and (mixed.form.parts or mixed.form.groups) else None
    robust = None if found else _glimpsed_outliers(loop, state)
    gathered = robust is not None and _gathered(loop.past, robust)
    if robust is not None and not gathered:
        robust = _settled_outliers(loop, state, robust)
    if robust is not None and not gathered:
        return _with_components(loop, robust, components)
    several = _with_components(loop, state, components)
    of_mixed = _of_mixed(loop, state, found) if found else None
    if len(several.family.weights) > 1 and (of_mixed is None or components != "auto" or _likelier(several, of_mixed)):
        return several
    if of_mixed is not None:
        return of_mixed
    robust = robust and _settled_outliers(loop, state, robust)
    if robust is not None:
        return robust
    return _for_prediction(loop, state) if objective == "predictive" and state.family.plain else state


def _mixed(loop: Loop, state: State, kinds: Sequence[Kind]) -> Mixed | None:
    """Return the mixed model that predicts specimens and groups best that were left out; None if none can be computed.

    A noise that is insisted on is an error then.
    """
    past, family = loop.past, state.family
    shared = torch.stack([*family.shared.values()]) if family.shared else torch.zeros(0, dtype=torch.float64)
    mixed_past = MixedPast(past.data, past.design, past.group)
    begin = mixed_past, state.found.mode, shared, family.noise, family.covariances[0]
    try:
        return choose(family.law, *begin, kinds=kinds)
    except LinAlgError:
        if "constant" in kinds:
            return None
        raise ValueError(f"learn_prior: {kinds[0]} noise cannot be learned from this past; try another") from None


def _of_mixed(loop: Loop, state: State, mixed: Mixed) -> State:
    """Return the state of a mixed model, with the posteriors of the past specimens under it."""
    within, between = mixed.own_covariance, mixed.group_covariance
    family = replace(
        state.family,
        coefficients=mixed.beta[None],
        covariances=(within if between is None else within + between)[None],
        noise=mixed.noise,
        shared=dict(zip(state.family.shared, mixed.shared, strict=True)),
        shared_errors=dict(zip(state.family.shared, mixed.shared_errors.tolist(), strict=True)),
        error_model=mixed.error_model,
        discrepancy=mixed.discrepancy,
        between=between,
    )
    return State(family, loop.posterior(family, mixed.theta), mixed.converged, mixed=mixed)


def _glimpsed_outliers(loop: Loop, state: State) -> State | None:
    """Return the state with wrong points told from the noise, not yet converged, if the past seems to show any.

    They must not stand side by side: residuals that do so are the law's own misfit.
    """
    past, (family, found, *_) = loop.past, state
    points = past.free
    if int(points.sum()) < _FEW:
        return None
    noise, outliers, gain = first_outliers(even_residuals(past, family, found)[points])
    if gain < _NATS:
        return None
    tried = loop.trial(replace(family, noise=noise, outliers=outliers), found.mode, _TRIAL)
    return tried if _scattered(past, tried) else None


def _settled_outliers(loop: Loop, state: State, glimpsed: State) -> State | None:
    """Return where the iteration with outliers ends, if they make the past likelier by more than chance could."""
    tried = loop.run(glimpsed.family, glimpsed.found.mode)
    likelier = float((tried.found.log_evidence - state.found.log_evidence).sum())
    return tried if likelier > _NATS and _scattered(loop.past, tried) else None


def _scattered(past: Past, state: State) -> bool:
    """Return True if the wrong points are few and alone."""
    wrong, outliers = wrong_points(past, state.family, state.found), state.family.outliers
    assert outliers is not None  # wrong points are told by them
    neighbours = float((wrong[:, 1:] * wrong[:, :-1]).sum()) / max(float(wrong.sum()), 1e-300)
    return neighbours < _ALONE + outliers.share and outliers.share < _MOST_WRONG


def _gathered(past: Past, state: State) -> bool:
    """Return True if outliers prefer one third of the x: wrong readings happen anywhere, a law misses somewhere."""
    wrong, x = (part[past.free].numpy() for part in (wrong_points(past, state.family, state.found), past.data.x))
    third = np.searchsorted(np.quantile(x, [1 / 3, 2 / 3]), x)
    points, found = (np.bincount(third, weights=w, minlength=3) for w in (np.ones_like(wrong), wrong))
    share = wrong.mean()
    distance = ((found - share * points) ** 2 / (share * (1.0 - share) * points.clip(min=1.0))).sum()
    return bool(stats.chi2.sf(distance, 2) < _CHANCE_GATHERED)


def _with_components(loop: Loop, state: State, components: int | Literal["auto"]) -> State:
    """Return the state with the mixture's components, if it has several.

    Components that nobody asked for must make the past likelier in full, too, not only on the few nodes that found
    them.
    """
    begin = chosen_components(loop.past, state.family, state.found, None if components == "auto" else components)
    if len(begin.weights) == 1:
        return state
    if components == "auto" and not _likelier(State(begin, loop.posterior(begin, state.found.mode), False), state):
        return state
    return loop.run(begin, state.found.mode)


def _likelier(new: State, old: State) -> bool:
    """Return True if the past is likelier by more than components gain by luck."""
    return float((new.found.log_evidence - old.found.log_evidence).sum()) > GAIN


def _for_prediction(loop: Loop, state: State) -> State:
    """Return the state with means moved to where they predict best, if specimens left out agree."""
    past, (family, found, *_) = loop.past, state
    gain = torch.zeros(len(past.design), dtype=torch.float64)
    for out in _folds(len(gain)):
        rest, left = loop.some(~out), past.some(out)
        learned = rest.trial(family, found.mode[~out], 2 * _GLANCE)
        held = rest._replace(hold_means=True)
        moved = held.trial(_moved(rest.past, learned.family), learned.found.mode, _GLANCE)
        its = (scores(expected(rest.past, s.family), left.data, left.design) for s in (learned, moved))
        before, after = its
        gain[out] = before - after
    if not _wins(gain, _CHANCE_MOVED):
        return state
    return loop._replace(hold_means=True).run(_moved(past, family), found.mode)


def _moved(past: Past, family: Family) -> Family:
    """Return the family with the means that predict best."""
    coefficients = move_means(expected(past, family), past.data, past.design)
    return replace(family, coefficients=coefficients[None])


def expected(past: Past, family: Family) -> Family:
    """Return the family, of one component, as wide as a new specimen is expected to spread."""
    specimens, regressors = past.design.shape
    wider = widening(specimens, regressors, len(family.law.fast))
    return replace(family, covariances=wider * family.covariances)


def _folds(count: int) -> list[Tensor]:
    """Return masks (specimens,) of those left out in turn."""
    folds = min(_FOLDS if count < _MANY else _FOLDS // 2, count)
    return [torch.arange(count) % folds == fold for fold in range(folds)]


def _wins(gain: Tensor, chance: float) -> bool:
    """Return True if gains, (specimens,), are larger than chance would bring so often."""
    needed = stats.t.isf(chance, len(gain) - 1) * float(gain.std()) / len(gain) ** 0.5
    return float(gain.mean()) > needed

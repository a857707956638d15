"""Which structure a family has: error model, discrepancy and groups, chosen by what is left out in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import Coordinate
from scimeta.calibration.family.error_model import KINDS, Kind
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.held_out import fold_labels, held_out
from scimeta.calibration.learning.mixed_learning import first_x, learn_mixed
from scimeta.calibration.learning.mixed_model import UNIT, Form, Mixed, MixedPast, variance_of
from scimeta.calibration.learning.mixed_modes import placed
from scimeta.calibration.learning.restricted_likelihood import LinAlgError

LEAST = 0.02  # nats a reading: a structure that gains less is not worth its parts
CLEARLY = 2.0  # standard errors by which parts more must predict better than parts fewer
CHANCE = 0.01  # that a structure is kept which gains nothing, one-sided, by Student's t
LIKELIER = 2.0  # nats of restricted likelihood that a covariance between groups must gain
LATEST = 2.0  # units of a late start, up to which its column holds
MANY_GROUPS = 10  # from which on what is between them is known as well as what is within
FEW_SPECIMENS = 8  # with fewer no discrepancy is considered
FEW_ABSCISSAE = 5  # with fewer distinct x a smooth curve is not either
COMPARED = 32  # readings of a specimen by which structures are compared
SUSPECT = 2.0  # standard errors of a correlation that make a search worth its price
BINS = 8  # of x, and of the law's level, by which mean residuals are compared
LEARNED = 100  # readings of a specimen from which the one that is chosen is learned
FIRST_ROUNDS, ROUNDS, LAST_ROUNDS = 8, 4, 40  # of the learning: from nothing, from a model, of the one that is kept


class Candidate(NamedTuple):
    """A structure that was tried, and how well it predicts: (specimens, cuts) nats a reading, as :func:`held_out`."""

    mixed: Mixed
    score: Tensor

    @property
    def form(self) -> Form:
        """The structure."""
        return self.mixed.form

    @property
    def mean(self) -> float:
        """Nats a reading, over specimens and cuts."""
        return float(self.score.mean())


class Search(NamedTuple):
    """What every candidate is learned from."""

    law: Law
    past: MixedPast
    theta: Tensor
    shared: Tensor
    noise: float
    covariance: Tensor

    def learned(self, form: Form, warm: Mixed | None, rounds: int | None = None) -> Mixed:
        """Return the model of that form, from the beginning or from one that was learned."""
        theta, few = (self.theta, FIRST_ROUNDS) if warm is None else (warm.theta, ROUNDS)
        rounds = rounds or few
        return learn_mixed(self.law, self.past, form, theta, self.shared, self.noise, self.covariance, warm, rounds)

    def tried(self, form: Form, warm: Mixed | None) -> Candidate | None:
        """Return that form as a candidate; None where its likelihood cannot be computed, or a late start is too late.

        The column of a late start is a straight line in the delay, which holds for delays about its unit.
        """
        try:
            mixed = self.learned(form, warm)
            late = mixed.discrepancy.mean[-1] if form.start and mixed.discrepancy is not None else 0.0
            return Candidate(mixed, held_out(mixed)) if abs(late) <= LATEST else None
        except LinAlgError:
            return None

    def all_tried(self, forms: Sequence[Form], warm: Mixed) -> list[Candidate]:
        """Return those of the forms that can be learned and judged."""
        found = [self.tried(form, warm) for form in forms]
        return [one for one in found if one is not None and np.isfinite(one.mean)]


def choose(
    law: Law,
    past: MixedPast,
    theta: Tensor,
    shared: Tensor,
    noise: float,
    covariance: Tensor,
    *,
    form: Form | None = None,
    kinds: Sequence[Kind] = KINDS,
    discrepancy: bool = True,
) -> Mixed:
    """Return the mixed model of the structure that predicts specimens and groups left out best.

    In turn: the error model, the discrepancy, the groups. A structure with more parts is taken where most folds gain
    by it, and the gain in the log density of each later reading is larger than chance would give (:func:`gain`).

    Args:
        law: the law.
        past: what is learned from.
        theta: (specimens, fast) unconstrained parameters to begin with.
        shared: (shared,) the same of the shared parameters.
        noise: standard deviation to begin with, in the unit of y.
        covariance: (fast, fast) between specimens, to begin with.
        form: the structure, if it is not to be chosen.
        kinds: error models that are considered; a single one is insisted on.
        discrepancy: False for none.

    Raises:
        ValueError: no error model, or one that is not known.
        torch.linalg.LinAlgError: the likelihood of the law alone cannot be computed.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}; got {kinds!r}")
    with one_thread():
        if form is not None:
            return Search(law, past, theta, shared, noise, covariance).learned(form, None)
        search = Search(law, thinned(past), theta, shared, noise, covariance)
        best = with_error_model(search, kinds)
        if discrepancy:
            best = with_discrepancy(search, best)
        if past.groups >= 2:
            best = with_groups(search, best)
        if not (best.form.parts or best.form.groups):
            return best.mixed
        return settled(search._replace(past=thinned(past, LEARNED)), best.mixed)


def settled(search: Search, mixed: Mixed) -> Mixed:
    """Return the model learned to its end, from all that the search holds; as it was where that cannot be computed."""
    try:
        return search.learned(mixed.form, mixed, LAST_ROUNDS)
    except LinAlgError:
        return mixed


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the tensors are so small that more of them wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_error_model(search: Search, kinds: Sequence[Kind]) -> Candidate:
    """Return the law alone with the error model that predicts best: the constant one, or one clearly better."""
    order = sorted(set(kinds), key=("constant", "power", "combined", "proportional").index)
    plain = Candidate(mixed := search.learned(Form(order[0]), None), held_out(mixed))
    best = plain
    if len(order) > 1 and not grows(plain.mixed):
        return plain
    for kind in order[1:]:
        found = search.tried(Form(kind), plain.mixed)
        if found is not None and gains(found, plain, search.past) and found.mean > best.mean:
            best = found
    return best


def with_discrepancy(search: Search, plain: Candidate) -> Candidate:
    """Return the candidate with the discrepancy that predicts best, the simplest of those that do so almost as well.

    Single parts come first. Where one of them predicts better (it need not do so clearly: two may where neither does
    alone), pairs of a common and an own curve follow, and a late start beside the best own curve. Beside a common one
    it would take the place of the parameters: a law moved in time and bent back is another law.
    """
    curves, starts = single_parts(plain.form, search.past)
    if not (curves or starts) or even(plain.mixed):
        return plain
    tried = search.all_tried([*curves, *starts], plain.mixed)
    if not any(one.mean > plain.mean + LEAST for one in tried):
        return plain
    pairs = [c._replace(own=o.own) for c in curves if c.common for o in curves if o.own]
    tried += search.all_tried(pairs, plain.mixed)
    smooth = [one for one in tried if not one.form.start and not one.form.common]
    if smooth and starts:
        form = max(smooth, key=lambda one: one.mean).form
        tried += search.all_tried([form._replace(start=True)], plain.mixed)
    found = [one for one in tried if gains(one, plain, search.past)]
    best = top = max(found, key=lambda one: one.mean, default=plain)
    for one in found:
        total, error, _ = gain(top.score, one.score, fold_labels(search.past))
        if one.form.complexity < best.form.complexity and total < max(LEAST, CLEARLY * error):
            best = one
    return best


def residuals(mixed: Mixed) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the law leaves at the modes, (points,) of all specimens: x, prediction, and residual over its sd.

    Residuals beyond three standard deviations count as three.
    """
    problem, data = mixed.problem, mixed.problem.past.data
    with torch.no_grad():
        place = placed(problem, mixed.theta, mixed.shared)
        left = (data.y - place.f) / variance_of(problem, mixed.eta, place.f).sqrt()
    return data.x, place.f, torch.where(data.mask, left.clamp(-3.0, 3.0), 0.0)


def even(mixed: Mixed) -> bool:
    """Return True if the residuals look like scatter: neighbours do not correlate, nor do means by x or level differ.

    Then the search for a discrepancy, a hundred times as dear, is spared.
    """
    x, f, left = residuals(mixed)
    mask = mixed.problem.past.data.mask
    order = torch.where(mask, x, torch.inf).argsort(dim=-1, stable=True)
    ordered, there = left.gather(-1, order), mask.gather(-1, order)
    pairs = (there[:, 1:] & there[:, :-1]).sum()
    together = (ordered[:, 1:] * ordered[:, :-1]).sum() / pairs.clamp(min=1).sqrt() / left[mask].square().mean()
    if float(together) > SUSPECT:
        return False
    for by in (x[mask], f[mask]):
        bins = torch.bucketize(by, by.quantile(torch.linspace(0, 1, BINS + 1, dtype=UNIT)[1:-1]))
        sums, counts = (torch.zeros(BINS, dtype=UNIT).index_add(0, bins, v) for v in (left[mask], torch.ones_like(by)))
        if float(stats.chi2.sf(float((sums**2 / counts.clamp(min=1)).sum()), BINS)) < CHANCE:
            return False
    return True


def grows(mixed: Mixed) -> bool:
    """Return True if the residuals seem to grow with the mean, by the rank correlation of their sizes."""
    _, f, left = residuals(mixed)
    mask = mixed.problem.past.data.mask
    rank = stats.spearmanr(f[mask].abs().numpy(), left[mask].abs().numpy())[0]
    return bool(rank * float(mask.sum()) ** 0.5 > SUSPECT)


def single_parts(form: Form, past: MixedPast) -> tuple[list[Form], list[Form]]:
    """Return the structures with one curve, and with a late start, where there are specimens and abscissae enough."""
    x = past.data.x[past.data.mask]
    if len(past.design) < FEW_SPECIMENS:
        return [], []
    curves: list[Form] = []
    if len(x.unique()) >= FEW_ABSCISSAE:
        coordinates: tuple[Coordinate, ...] = ("prediction", "x")
        curves = [*(form._replace(common=c) for c in coordinates), *(form._replace(own=c) for c in coordinates)]
    late = float(x.min()) >= 0 and first_x(past.data) > 0
    return curves, [form._replace(start=True)] if late else []


def with_groups(search: Search, plain: Candidate) -> Candidate:
    """Return the candidate with a covariance between groups, where it is likelier and predicts groups left out better.

    Both candidates have the same fixed numbers, so that their restricted likelihoods compare. Of many groups each is
    predicted alike with it and without, so that it need only be no worse there. Two groups cannot be judged by leaving
    one out, each saying nothing of how far the other is off: with two the covariance is always there.
    """
    found = search.tried(plain.form._replace(groups=True), plain.mixed)
    if found is None:
        return plain
    gained = gain(found.score, plain.score, fold_labels(search.past))[0]
    better = gained > (-LEAST if search.past.groups >= MANY_GROUPS else 0.0)
    likelier = plain.mixed.nll - found.mixed.nll > LIKELIER
    return found if search.past.groups == 2 or (better and likelier) else plain


def gains(new: Candidate, old: Candidate, past: MixedPast) -> bool:
    """Return whether the new candidate gains in most folds, and more in the mean than chance would give."""
    labels = fold_labels(past)
    total, error, most = gain(new.score, old.score, labels)
    needed = float(stats.t.isf(CHANCE, max(len(labels) - 1, 1)))
    return most and total > max(LEAST, needed * error)


def gain(new: Tensor, old: Tensor, labels: Tensor) -> tuple[float, float, bool]:
    """Return the nats a reading gained, their standard error over the specimens, and whether most folds gain.

    Args:
        new, old: (specimens, cuts) as :func:`held_out`.
        labels: (specimens,) folds.
    """
    each = (new - old).mean(-1)
    if not torch.isfinite(each).all():
        return -np.inf, 0.0, False
    folds = torch.stack([each[labels == label].sum() for label in labels.unique()])
    return float(each.mean()), float(each.std()) / len(each) ** 0.5, bool((folds > 0).double().mean() > 0.5)


def thinned(past: MixedPast, most: int = COMPARED) -> MixedPast:
    """Return the past with at most so many readings of each specimen, evenly spread over them."""
    data, points = past.data, past.data.mask.sum(-1)
    if int(points.max()) <= most:
        return past
    index = (torch.linspace(0, 1, most, dtype=UNIT) * (points[:, None] - 1)).round().long()
    short = torch.arange(most).expand(len(points), -1)
    index = torch.where(points[:, None] <= most, short.clamp(max=data.x.shape[1] - 1), index)
    return past._replace(data=Measured(*(part.gather(-1, index) for part in data)))

"""Which structure a family has: noise, discrepancy and groups, chosen by specimens and groups left out in turn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.mixed_learning import learn_mixed
from scimeta.calibration.learning.mixed_model import (
    Form, Mixed, MixedPast, by_group, fixed_columns, lifted, own_columns, own_root, solved, summarised, variance_of,
)

_UNIT = torch.float64
FOLDS = 10
LEAST, CLEARLY = 0.02, 2.0


def fold_labels(past: MixedPast) -> Tensor:
    """Return (specimens,) the groups if there are two or more, else folds of specimens."""
    if past.group is not None and int(past.group.max()) >= 1:
        return past.group
    return torch.arange(len(past.design)) % min(FOLDS, len(past.design))


def held_out(mixed: Mixed, past: MixedPast) -> Tensor:
    """Return (S, 3): log density of every specimen's readings, of those after its first quarter given that, after its half.

    The mean's coefficients are those of the other folds; the few variances are those of all. The law is linearised at the modes.
    """
    layout, form, blocks, data = mixed.layout, mixed.form, mixed.blocks, past.data
    labels = fold_labels(past)
    with torch.no_grad():
        M, _ = summarised(layout, mixed.eta, blocks, mixed.basis, mixed.typical, past)
        units, _, _ = by_group(layout, mixed.eta, M, past)
        if not form.groups:
            units = torch.zeros(int(labels.max()) + 1, *units.shape[1:], dtype=_UNIT).index_add(0, labels, units)
        total, fast, m = units.sum(0), layout.fast, units.shape[-1] - 1
        lift = lifted(past, fast, M.shape[-1] - fast - 1)[..., :-1, :-1]
        X = torch.cat([blocks.J, *fixed_columns(form, blocks)], -1) @ lift  # (S, P, m)
        C = layout.factor(mixed.eta, "own_covariance")
        spread = C @ C.T
        if form.groups:
            G = layout.factor(mixed.eta, "group_covariance")
            spread = spread + G @ G.T
        own = own_root(layout, mixed.eta, mixed.basis)
        variance = variance_of(layout, mixed.eta, blocks.f, mixed.typical, data)
        cov = blocks.J @ spread @ blocks.J.mT
        if own is not None:
            root = torch.cat(own_columns(form, blocks), -1) @ own
            cov = cov + root @ root.mT
        e = torch.empty_like(blocks.r)
        for label in labels.unique():
            out = labels == label
            fixed, fixed_cov, _ = solved(layout, mixed.eta, mixed.basis, total - units[label])
            e[out] = blocks.r[out] - X[out] @ fixed
            cov[out] = cov[out] + X[out] @ fixed_cov @ X[out].mT
        whole = cov + torch.diag_embed(torch.where(data.mask, variance, 1.0))
        return torch.stack([pointwise(whole, e, data.mask, seen) for seen in seen_sets(data, fast)], -1)


def seen_sets(data: Measured, fast: int) -> list[Tensor]:
    """Return masks (S, P) of readings that are taken for seen: first few, spread few, first quarter, first half."""
    order = torch.where(data.mask, data.x, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    points = data.mask.sum(-1, keepdim=True)
    few = torch.clamp(torch.full_like(points, fast + 1), max=points - 1)
    spread = torch.zeros_like(data.mask)
    for k in range(fast + 1):
        place = ((k + 0.5) * points / (fast + 1)).floor().long()
        spread |= order == place
    cuts = [few, torch.maximum((points + 3) // 4, torch.tensor(fast)), (points + 1) // 2]
    return [spread & data.mask, *[(order < cut) & data.mask for cut in cuts]]


def pointwise(cov: Tensor, e: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
    """Return (S,) mean log density of each reading not seen, alone, given those seen; of Gaussian readings (S, P)."""
    both = seen[:, :, None] & seen[:, None]
    inner = torch.where(both, cov, 0.0) + torch.diag_embed(torch.where(seen, 0.0, 1.0))
    L = torch.linalg.cholesky_ex(inner)[0]
    white = torch.linalg.solve_triangular(L, torch.where(seen, e, 0.0)[..., None], upper=False)
    cross = torch.linalg.solve_triangular(L, torch.where(seen[:, :, None], cov, 0.0), upper=False)
    mean = (cross.mT @ white)[..., 0]
    variance = cov.diagonal(dim1=-2, dim2=-1) - (cross**2).sum(-2)
    each = -0.5 * (e - mean) ** 2 / variance - 0.5 * (2 * np.pi * variance).log()
    later = mask & ~seen
    return torch.where(later, each, 0.0).sum(-1) / later.sum(-1).clamp(min=1)


def gain(new: Tensor, old: Tensor, labels: Tensor) -> tuple[float, float, bool]:
    """Return the nats gained in all, mean over the cuts, the standard error, and whether most folds gain."""
    each = (new - old).mean(-1)
    if not torch.isfinite(each).all():
        return -np.inf, 0.0, False
    folds = torch.stack([each[labels == label].sum() for label in labels.unique()])
    return float(each.mean()), float(each.std()) / len(each) ** 0.5, bool((folds > 0).double().mean() > 0.5)


MANY = 32  # readings of a specimen by which structures are compared


def thinned(past: MixedPast, most: int = MANY) -> MixedPast:
    """Return the past with at most so many readings of each specimen, evenly spread over them."""
    data, points = past.data, past.data.mask.sum(-1)
    if int(points.max()) <= most:
        return past
    even = torch.linspace(0, 1, most, dtype=_UNIT)
    index = (even * (points[:, None] - 1)).round().long()
    short = torch.arange(most).expand(len(points), -1)
    index = torch.where(points[:, None] <= most, short.clamp(max=data.x.shape[1] - 1), index)
    return past._replace(data=type(data)(*(part.gather(-1, index) for part in data)))


def choose(law: Law, past: MixedPast, theta: Tensor, shared: Tensor, noise: float, covariance: Tensor, say=None, only=None) -> Mixed:
    whole, past = past, thinned(past)
    labels = fold_labels(past)

    def tried(form: Form, warm: Mixed | None) -> tuple[Mixed, Tensor] | None:
        try:
            mixed = learn_mixed(law, past, form, theta if warm is None else warm.theta, shared, noise, covariance, warm,
                                8 if warm is None else 4)
            return mixed, held_out(mixed, past)
        except torch.linalg.LinAlgError as e:
            if say: say(f"{form} {e}")
            return None

    count = 0 if past.group is None else int(past.group.max()) + 1
    if only is not None:
        return learn_mixed(law, whole, only, theta, shared, noise, covariance, None, 8)
    plain = tried(Form(), None)
    best = plain
    assert plain
    for kind in ("power", "combined", "proportional"):
        found = tried(Form(kind), plain[0])
        if found is not None:
            total, error, most = gain(found[1], plain[1], labels)
            if say: say(f"    {kind}: {total:.3f} +- {error:.3f}")
            if most and total > max(LEAST, needed(len(labels)) * error) and found[1].mean() > best[1].mean():
                best = found
    noise_only = best
    results = {}
    for start in (False, True):
        for common, own in [(c, o) for c in ("", "prediction", "x") for o in ("", "prediction", "x")]:
            form = noise_only[0].form._replace(start=start, common=common, own=own)
            if form == noise_only[0].form: continue
            found = tried(form, noise_only[0])
            if found is None: continue
            total, error, most = gain(found[1], noise_only[1], labels)
            ok = most and total > max(LEAST, needed(len(labels)) * error)
            if say: say(f"    {form}: {total:.3f} +- {error:.3f} {'*' if ok else ''} nll {found[0].nll:.1f}  parts {(found[1]-noise_only[1]).mean(0).numpy().round(3)}")
            if ok: results[form] = found
    if results:
        top = max(results.values(), key=lambda f: float(f[1].mean()))
        best = top
        for form, found in results.items():
            total, error, _ = gain(top[1], found[1], labels)
            if complexity(form) < complexity(best[0].form) and total < max(LEAST, CLEARLY * error):
                best = found
    if count >= 2:
        found = tried(best[0].form._replace(groups=True), best[0])
        if found is not None:
            total, error, _ = gain(found[1], best[1], labels)
            if say: say(f"    groups: {total:.3f} +- {error:.3f}")
            if count == 2 or total > 0:
                best = found
    return learn_mixed(law, thinned(whole, 100), best[0].form, best[0].theta, shared, noise, covariance, best[0], 4)


def needed(count: int) -> float:
    """Return standard errors that a gain must have, of so many specimens."""
    return float(stats.t.isf(0.01, max(count - 1, 1)))


def complexity(form: Form) -> int:
    return form.start + bool(form.common) + bool(form.own)

"""Learning a linear mixed model: numbers by restricted likelihood, modes by Gauss-Newton, in turn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import KNOTS, Discrepancy, broadcast_linearized
from scimeta.calibration.family.error_model import LEAST, ErrorModel
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.mixed_model import (
    Basis, Blocks, Form, Layout, Mixed, MixedPast, Reduced, fixed_columns, own_columns, own_root, reduced, variance_of,
)

_UNIT = torch.float64
_DIFFERENCE = 1e-4
MOST = 0.1


class Look(NamedTuple):
    """The law and what it misses at the specimens' parameters."""

    f: Tensor
    J: Tensor  # (S, P, fast) of the law
    slow: Tensor
    phi: dict[str, Tensor]
    late: Tensor | None


def looked(law: Law, theta: Tensor, shared: Tensor, data: Measured, basis: dict[str, Basis], start: float) -> Look:
    named = dict(zip(law.fast, theta.unbind(-1), strict=True))
    slow_names = [n for n in law.names if n not in law.fast]
    named |= {n: v.expand(len(theta)) for n, v in zip(slow_names, shared, strict=True)}
    named = {n: named[n] for n in law.names}
    f, by = law.linearized(named, data.x)
    mask = data.mask[..., None]
    J = torch.stack([by[n] for n in law.fast], -1)
    slow = torch.stack([by[n] for n in slow_names], -1) if slow_names else f.new_zeros(*f.shape, 0)
    f, J, slow = (part.nan_to_num(0.0, 0.0, 0.0) for part in (f, J, slow))
    late, phi = None, {}
    if start:
        late = torch.where(data.mask, (law.curve(named, (data.x - start).clamp(min=0.0)) - f).nan_to_num(), 0.0)
    for name, one in basis.items():
        place = one.frame.placed(data.x, f, J, None)
        phi[name] = torch.where(mask, one.frame.columns(place) @ one.free, 0.0)
    return Look(f, torch.where(mask, J, 0.0), torch.where(mask, slow, 0.0), phi, late)


def common_part(form: Form, look: Look, coefficients: Tensor | None) -> Tensor:
    """Return (S, P) what all specimens have in common beside the law: start and curve."""
    if coefficients is None or not len(coefficients):
        return torch.zeros_like(look.f)
    columns = [look.late[..., None]] if look.late is not None else []
    columns += [look.phi[form.common]] if form.common else []
    return torch.cat(columns, -1) @ coefficients


def modes(law, form: Form, layout: Layout, eta: Tensor, past: MixedPast, basis: dict[str, Basis], start: float, typical: float,
          theta: Tensor, shared: Tensor, mean: Tensor, covariance: Tensor, coefficients: Tensor | None, steps: int):
    """Return (S, fast) posterior modes and (S, fast, fast) Laplace covariances, own effects integrated out."""
    data, precision = past.data, torch.linalg.inv(covariance)
    own = own_root(layout, eta, basis)

    def at(theta):
        look = looked(law, theta, shared, data, basis, start)
        return look, look.f + common_part(form, look, coefficients)

    def judge(theta):
        look, whole = at(theta)
        J = look.J
        if coefficients is not None and len(coefficients):
            J = J + tilted(form, look, lambda t: at(t), theta, coefficients, data)
        variance = variance_of(layout, eta, look.f, typical, data)
        weight = torch.where(data.mask, 1.0 / variance, 0.0)
        r = torch.where(data.mask, data.y - whole, 0.0)
        X = torch.cat([J, r[..., None]], -1)
        WX = weight[..., None] * X
        M = X.mT @ WX
        value = torch.where(data.mask, variance.log(), 0.0).sum(-1)
        if own is not None:
            blocks = Blocks(r, look.f, look.J, look.slow, look.phi, look.late)
            root = torch.cat(own_columns(form, blocks), -1) @ own
            N = torch.eye(root.shape[-1], dtype=_UNIT) + root.mT @ (weight[..., None] * root)
            factor = torch.linalg.cholesky(N)
            H = torch.linalg.solve_triangular(factor, root.mT @ WX, upper=False)
            M, value = M - H.mT @ H, value + 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        off = theta - mean
        pull = (precision @ off[..., None])[..., 0]
        value = value + M[:, -1, -1] + (off * pull).sum(-1)
        return value.nan_to_num(nan=torch.inf), M[:, :-1, :-1] + precision, M[:, :-1, -1] - pull

    damp = torch.full((len(theta),), 1e-4, dtype=_UNIT)
    value, H, g = judge(theta)
    for _ in range(steps):
        scaled = H + torch.diag_embed(damp[:, None] * H.diagonal(dim1=-2, dim2=-1))
        step = torch.linalg.solve_ex(scaled, g[..., None])[0][..., 0]
        tried = theta + step.nan_to_num()
        new, H1, g1 = judge(tried)
        good = new <= value
        moved = (good & (value - new > 1e-4)).any()
        theta, value = torch.where(good[:, None], tried, theta), torch.where(good, new, value)
        H, g = torch.where(good[:, None, None], H1, H), torch.where(good[:, None], g1, g)
        damp = torch.where(good, damp * 0.2, damp * 10.0).clamp(1e-9, 1e9)
        if not moved and (good.all() or damp.max() > 1e3):
            break
    return theta, torch.linalg.inv(H)


def tilted(form: Form, look: Look, at, theta: Tensor, coefficients: Tensor, data: Measured) -> Tensor:
    """Return (S, P, fast) how the common part moves with the parameters, by differences."""
    still, parts = common_part(form, look, coefficients), []
    for unit in torch.eye(theta.shape[-1], dtype=_UNIT):
        moved = at(theta + _DIFFERENCE * unit)[0]
        parts.append((common_part(form, moved, coefficients) - still) / _DIFFERENCE)
    return torch.where(data.mask[..., None], torch.stack(parts, -1).nan_to_num(), 0.0)


def basis_for(coordinate: str, law: Law, data: Measured, look: Look, population: Tensor) -> Basis:
    """Return knots, envelope and the directions that no common change of the parameters imitates."""
    mask, size = data.mask, float(data.y[data.mask].abs().max())
    scale = 0.0
    if coordinate == "x":
        scale = float(data.x[mask].median()) if float(data.x[mask].min()) >= 0 else 0.0
        s = torch.log1p(data.x[mask] / scale) if scale else data.x[mask]
    else:
        s = look.f[mask]
    s = s.numpy()
    ranks = np.quantile(s, np.linspace(0, 1, KNOTS))
    even = 0.9 if coordinate == "prediction" else 0.5
    knots = (1.0 - even) * ranks + even * np.linspace(ranks[0], ranks[-1], KNOTS)
    zero = np.zeros(KNOTS)
    frame = Discrepancy((coordinate,), (knots,), zero, np.zeros((KNOTS, KNOTS)), np.zeros((KNOTS, KNOTS)),
                        population.numpy(), size, x_scale=scale)
    phi = frame.columns(frame.placed(data.x, look.f, look.J, None)) * mask[..., None]
    A = (phi.mT @ torch.cat([look.J, look.slow], -1)).sum(0)
    A = A / A.norm(dim=0).clamp(min=1e-300)
    left, values, _ = torch.linalg.svd(A, full_matrices=True)
    return Basis(frame, left[:, int((values > 1e-6).sum()) :])


def learn_mixed(law: Law, past: MixedPast, form: Form, theta: Tensor, shared: Tensor, noise: float, covariance: Tensor,
                warm: Mixed | None = None, rounds: int = 8, inner: int = 10) -> Mixed:
    data, fast = past.data, len(law.fast)
    p, h = past.design.shape[1], len(law.names) - fast
    layout = Layout(form, fast)
    step = first_x(data) if form.start else 0.0
    basis, coefficients, last = {}, None, np.inf
    typical = float(data.y[data.mask].square().mean().sqrt())
    eta = first_numbers(layout, noise, covariance, warm)
    low, high = bounds(layout, data)
    mu = past.design @ torch.linalg.lstsq(past.design, theta).solution
    beta = torch.linalg.lstsq(past.design, mu).solution
    if warm is not None:
        mu, beta, shared = past.design @ warm.beta, warm.beta, warm.shared
    out = None
    for turn in range(rounds):
        look = looked(law, theta, shared, data, basis, step)
        if form.smooth and turn < 2:
            old = warm.basis if warm is not None else {}
            basis = {n: old.get(n) or basis_for(n, law, data, look, torch.as_tensor(covariance)) for n in {form.common, form.own} - {""}}
            look = looked(law, theta, shared, data, basis, step)
        J = look.J
        if coefficients is not None and len(coefficients):
            J = J + tilted(form, look, lambda t: (looked(law, t, shared, data, basis, step),), theta, coefficients, data)
        r = torch.where(data.mask, data.y - look.f, 0.0) + (J @ (theta - mu)[..., None])[..., 0]
        if coefficients is not None and len(coefficients):  # the tilt is of the common part at these coefficients
            pass
        blocks = Blocks(r, look.f, J, look.slow, look.phi, look.late)
        eta, nll = maximised(layout, eta, blocks, basis, typical, past, low, high, inner)
        with torch.no_grad():
            out = reduced(layout, eta, blocks, basis, typical, past)
        mu = mu + past.design @ out.fixed[: p * fast].reshape(fast, p).T
        shared = shared + out.fixed[p * fast : p * fast + h].clamp(-1.0, 1.0)
        coefficients = out.fixed[p * fast + h :]
        centre = mu if out.group is None else mu + out.group[past.group]
        C = layout.factor(eta, "own_covariance")
        C = C @ C.T
        before = theta
        theta, _ = modes(law, form, layout, eta, past, basis, step, typical, theta, shared, centre, C, coefficients, 3)
        moved = float(((theta - before).abs() / C.diagonal().sqrt()).max())
        if abs(last - nll) < 0.02 and moved < 0.03 and turn > 1:
            break
        last = nll
    return _mixed(law, past, form, layout, eta, mu, out, shared, theta, C, coefficients, basis, step, typical, nll, blocks)


def _mixed(law, past, form, layout, eta, mu, out, shared, theta, C, coefficients, basis, step, typical, nll, blocks) -> Mixed:
    p, fast = past.design.shape[1], layout.fast
    h = len(law.names) - fast
    V = out.covariance
    G = None
    if form.groups:
        G = layout.factor(eta, "group_covariance")
        G = G @ G.T
    numbers = eta[layout.at["noise"]]
    kind, base = form.noise, float(numbers[0].exp())
    error = ErrorModel()
    if kind != "constant":
        share = float(torch.sigmoid(numbers[1])) if kind == "combined" else 0.0
        power = float(numbers[1]) if kind == "power" else 1.0
        error = ErrorModel(kind, share, power, typical, LEAST * typical)
    discrepancy = None
    if form.smooth or form.start:
        discrepancy = discrepancy_of(form, layout, eta, out, basis, step, p * fast + h, law, past, C)
    beta = torch.linalg.lstsq(past.design, mu).solution
    errors = V.diagonal()[p * fast : p * fast + h].clamp(min=0).sqrt()
    bc = V[: p * fast, : p * fast].reshape(fast, p, fast, p).permute(1, 0, 3, 2)
    return Mixed(law, form, layout, eta, beta, bc, shared, errors, base, error, discrepancy, C, G, theta, nll, basis, typical, blocks, step,
                 out.fixed[p * fast + h :])


def discrepancy_of(form, layout, eta, out, basis, step, begin, law, past, C) -> Discrepancy:
    """Return the discrepancy at its knots (and start) from the numbers that were learned."""
    names = sorted(basis)
    place = {n: slice(KNOTS * i, KNOTS * (i + 1)) for i, n in enumerate(names)}
    n = KNOTS * len(names)
    size = n + bool(step)
    lift = torch.zeros(size, out.fixed.shape[0] - begin, dtype=_UNIT)  # fixed numbers -> columns
    at = 0
    if form.start:
        lift[n, 0] = 1.0
        at = 1
    if form.common:
        lift[place[form.common], at:] = basis[form.common].free
    mean = lift @ out.fixed[begin:]
    mean_cov = lift @ out.covariance[begin:, begin:] @ lift.T
    own = own_root(layout, eta, basis)
    cov = torch.zeros(size, size, dtype=_UNIT)
    if own is not None:
        k = basis[form.own].free.shape[1] if form.own else 0
        own_lift = torch.zeros(size, own.shape[0], dtype=_UNIT)
        if form.own:
            own_lift[place[form.own], :k] = basis[form.own].free
        if form.start:
            own_lift[n, k] = 1.0
        cov = own_lift @ (own @ own.T) @ own_lift.T
    units = int(past.group.max()) + 1 if past.group is not None else len(past.design)
    # the own curves' mean is taken for zero, which so many groups or specimens know no better
    mean_cov = mean_cov + cov / units
    if not names:
        return Discrepancy((), (), mean.numpy(), cov.numpy(), mean_cov.numpy(), C.numpy(), 1.0, start=step)
    frame = basis[names[0]].frame
    return Discrepancy(tuple(names), tuple(basis[m].frame.knots[0] for m in names), mean.numpy(), cov.numpy(), mean_cov.numpy(),
                       frame.population, frame.size, frame.taper, max(basis[m].frame.x_scale for m in names), step)


def first_x(data: Measured) -> float:
    """Return the smallest positive x of the median specimen: the unit of a late start."""
    positive = torch.where(data.mask & (data.x > 0), data.x, torch.inf).amin(-1)
    return float(positive[torch.isfinite(positive)].median())


def first_numbers(layout: Layout, noise: float, covariance: Tensor, warm: Mixed | None) -> Tensor:
    eta, form, q = torch.zeros(layout.count, dtype=_UNIT), layout.form, layout.fast
    L = torch.linalg.cholesky(covariance)
    sd = L.diagonal()
    below = (L / sd[:, None])[np.tril_indices(q, -1)]
    eta[layout.at["noise"]][0] = np.log(noise)
    if form.noise == "power":
        eta[layout.at["noise"]][1] = 0.5
    eta[layout.at["own_covariance"]] = torch.cat([sd.log(), below])
    if form.groups:
        eta[layout.at["group_covariance"]] = torch.cat([sd.log() - 0.7, below])
    for name, value in (("length", 0.3), ("common", 0.05), ("own", 0.03), ("clock", 0.1)):
        if name in layout.at:
            eta[layout.at[name]] = np.log(value)
    if warm is not None:
        for name, at in layout.at.items():
            if name in warm.layout.at and (name != "noise" or warm.form.noise == form.noise):
                eta[at] = warm.eta[warm.layout.at[name]]
        if form.noise != warm.form.noise:
            eta[layout.at["noise"]][0] = warm.eta[0]
    return eta


def bounds(layout: Layout, data: Measured) -> tuple[np.ndarray, np.ndarray]:
    low, high, q = np.full(layout.count, -25.0), np.full(layout.count, 25.0), layout.fast
    size = float(data.y[data.mask].abs().max())
    low[layout.at["noise"]] = np.log(1e-5 * size)
    if layout.form.noise == "power":
        low[layout.at["noise"].start + 1], high[layout.at["noise"].start + 1] = 0.05, 1.5
    if layout.form.noise == "combined":
        low[layout.at["noise"].start + 1], high[layout.at["noise"].start + 1] = -7.0, 7.0
    for name in ("own_covariance", "group_covariance"):
        if name in layout.at:
            at = layout.at[name]
            low[at.start : at.start + q], high[at.start : at.start + q] = -12.0, 12.0
            low[at.start + q : at.stop], high[at.start + q : at.stop] = -10.0, 10.0
    for name, least, most in (("length", 0.1, 1.5), ("common", 1e-4, MOST), ("own", 1e-4, MOST), ("clock", 1e-3, 2.0)):
        if name in layout.at:
            low[layout.at[name]], high[layout.at[name]] = np.log(least), np.log(most)
    return low, high


def maximised(layout, eta, blocks, basis, typical, past, low, high, steps):
    def fun(v):
        e = torch.tensor(v, requires_grad=True)
        try:
            value = reduced(layout, e, blocks, basis, typical, past).nll
            (grad,) = torch.autograd.grad(value, e)
        except torch.linalg.LinAlgError:
            return 1e10, np.zeros_like(v)
        g = grad.numpy()
        return (value.item(), g) if np.isfinite(value.item()) and np.isfinite(g).all() else (1e10, np.zeros_like(v))

    found = minimize(fun, np.clip(eta.numpy(), low, high), jac=True, method="L-BFGS-B", bounds=list(zip(low, high)),
                     options={"maxiter": steps, "maxcor": 12})
    return torch.from_numpy(found.x.copy()), float(found.fun)

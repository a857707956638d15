"""A prior as the text of a PyMC or NumPyro model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scimeta.calibration.family.family import Family
from scimeta.calibration.family.provenance import Covariates

Spread = tuple[np.ndarray, np.ndarray]
"""Covariances (components, fast, fast) and those of the coefficients, as :meth:`Prior.spread` returns them."""

_PYMC = {
    "real": "{}",
    "positive": "pm.math.exp({})",
    "softplus": "pm.math.log1pexp({})",
    "unit": "pm.math.sigmoid({})",
}
_NUMPYRO = {"real": "{}", "positive": "jnp.exp({})", "softplus": "softplus({})", "unit": "sigmoid({})"}


def pymc_text(family: Family, covariates: Covariates, spread: Spread, origin: str) -> str:
    """Return the prior of one new specimen as Python text for PyMC: a function to call inside a ``pm.Model``.

    Its unconstrained parameters are Gaussian, or a mixture for a prior of several components, widened by what the past
    leaves open as in :meth:`Prior.population`. The law stays yours to write; noise and outliers are constants of the
    text, and a noise that follows the mean is a function beside them. A discrepancy is not in the text, which says so.

    Args:
        family, covariates: of the prior.
        spread: C and V of its components, widened.
        origin: where it comes from.

    >>> import torch
    >>> from scimeta.calibration.laws.law import Law, Parameter
    >>> law = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> one = Family.gaussian(law, [[0.5]], [[0.25]], 0.05)
    >>> text = pymc_text(one, Covariates(), (np.full((1, 1, 1), 0.25), np.zeros((1, 1, 1, 1, 1))), "set by hand")
    >>> print("\\n".join(text.splitlines()[-3:-1]))
        return {
            "tau": pm.Deterministic("tau", pm.math.exp(u[0])),  # s
    """
    one = 'pm.MvNormal("unconstrained", mu=means[0], chol=factors[0])'
    several = (
        'pm.Mixture("unconstrained", w=SHARES, comp_dists=[\n'
        "        pm.MvNormal.dist(mu=mean, chol=factor) for mean, factor in zip(means, factors)\n    ])"
    )
    imports = ["import numpy as np", "import pymc as pm"]
    sample = several if len(family.weights) > 1 else one
    words = _Words(imports, sample, "pm.Deterministic", "pm.Normal({!r}, {!r}, {!r})", _PYMC, "pm.math")
    return _text(family, covariates, spread, origin, words)


def numpyro_text(family: Family, covariates: Covariates, spread: Spread, origin: str) -> str:
    """Return the prior of one new specimen as Python text for NumPyro: a function to call inside a model.

    As :func:`pymc_text` otherwise.
    """
    one = "dist.MultivariateNormal(means[0], scale_tril=factors[0])"
    several = (
        "dist.MixtureSameFamily(\n        dist.Categorical(jnp.asarray(SHARES)),\n"
        "        dist.MultivariateNormal(means, scale_tril=factors),\n    )"
    )
    imports = [
        "import jax.numpy as jnp",
        "import numpy as np",
        "import numpyro",
        "import numpyro.distributions as dist",
        "from jax.nn import sigmoid, softplus",
    ]
    sample = f'numpyro.sample("unconstrained", {several if len(family.weights) > 1 else one})'
    normal = "numpyro.sample({!r}, dist.Normal({!r}, {!r}))"
    words = _Words(imports, sample, "numpyro.deterministic", normal, _NUMPYRO, "jnp")
    return _text(family, covariates, spread, origin, words)


class _Words(NamedTuple):
    """What one library writes differently from the other."""

    imports: list[str]
    sample: str
    deterministic: str
    normal: str
    supports: dict[str, str]
    math: str


def _text(family: Family, covariates: Covariates, spread: Spread, origin: str, words: _Words) -> str:
    """Return the text of a module with the prior as a function."""
    law, (covariances, errors) = family.law, spread
    lines = [f'"""Prior of law {law.name}, {origin}; {law.y} against {law.x}."""', "", *words.imports, ""]
    lines.append(f"SHARES = np.array({family.weights.tolist()})  # of the components")
    lines.append(f"COEFFICIENTS = np.array({family.coefficients.tolist()})  # (components, 1 + conditions, parameters)")
    lines.append(f"COVARIANCES = np.array({covariances.tolist()})  # (components, parameters, parameters)")
    lines.append("# What the past leaves open of the coefficients: (components, 1 + conditions, parameters, the same)")
    lines.append(f"ERRORS = np.array({errors.tolist()})")
    lines.append(f"CENTRE, SCALE = np.array({covariates.centre.tolist()}), np.array({covariates.scale.tolist()})")
    lines += _measurement(family, words.math)
    shown = (f"{name}: 1 or 0" if name in covariates.indicators else name for name in covariates.names)
    asked = f" ({', '.join(shown)})" if covariates.names else ""
    lines += ["", "", "def parameters(conditions=()):"]
    lines.append(f'    """Return name -> value of a new specimen\'s parameters; conditions in order{asked}."""')
    lines.append("    z = np.append(1.0, (np.asarray(conditions, dtype=float) - CENTRE) / SCALE)")
    lines.append('    means = np.einsum("r,krp->kp", z, COEFFICIENTS)')
    lines.append('    covariances = COVARIANCES + np.einsum("r,krpqs,q->kps", z, ERRORS, z)')
    lines.append("    factors = np.linalg.cholesky(covariances)")
    lines += [f"    u = {words.sample}", "    return {"]
    for name, parameter in law.parameters.items():
        if name in law.fast:
            u = f"u[{law.fast.index(name)}]"
        else:
            u = words.normal.format(f"{name}_unconstrained", float(family.shared[name]), family.shared_errors[name])
        value = words.supports[parameter.support].format(u)
        unit = f"  # {parameter.unit}" if parameter.unit else ""
        lines.append(f'        "{name}": {words.deterministic}("{name}", {value}),{unit}')
    return "\n".join([*lines, "    }"]) + "\n"


def _measurement(family: Family, math: str) -> list[str]:
    """Return the lines on what is between a measurement and the law."""
    model, typical = family.error_model, "" if family.error_model.constant else " where the mean is typical"
    lines = [f"NOISE = {family.noise!r}  # standard deviation of a measurement{typical}{_in(family.law.y.unit)}"]
    if family.outliers is not None:
        outliers = tuple(family.outliers)
        lines.append(f"OUTLIERS = {outliers}  # share of the points, their shift (either way), its spread")
    if family.discrepancy is not None:
        lines.append(
            "# The law's discrepancy, which scimeta's own fits allow for, is not in here: without it the law is"
        )
        lines.append("# taken for exact, and intervals may be too narrow.")
    if model.constant:
        return lines
    least, share, rest, power = (float(v) for v in (model.least, model.share, 1.0 - model.share, 2.0 * model.power))
    lines += ["", "", "def noise(mean):"]
    lines.append('    """Return the standard deviation of a measurement where the law predicts the mean."""')
    lines.append(f"    grown = ({math}.maximum({math}.abs(mean), {least!r}) / {float(model.typical)!r}) ** {power!r}")
    return [*lines, f"    return NOISE * {math}.sqrt({share!r} + {rest!r} * grown)"]


def _in(unit: str) -> str:
    return f", {unit}" if unit else ""

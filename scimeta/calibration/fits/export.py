"""Ways out: draws of fits for ArviZ, a prior as the text of a PyMC or NumPyro model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scimeta.calibration.data.curves import shortened

if TYPE_CHECKING:
    from scimeta.calibration.family.prior import Prior
    from scimeta.calibration.fits.calibration import Calibrations

_PYMC = {
    "real": "{}",
    "positive": "pm.math.exp({})",
    "softplus": "pm.math.log1pexp({})",
    "unit": "pm.math.sigmoid({})",
}
_NUMPYRO = {"real": "{}", "positive": "jnp.exp({})", "softplus": "softplus({})", "unit": "sigmoid({})"}


def arviz_draws(fits: Calibrations, draws: int = 1000, generator: torch.Generator | None = None) -> Any:
    """Return posterior draws of many specimens as ArviZ keeps them: a DataTree, an InferenceData before ArviZ 1.

    The draws are independent, from one "chain", so that convergence diagnostics have nothing to find. Group posterior:
    each parameter in natural units, (chain, draw, specimen), its unit as attribute. Groups observed_data and
    constant_data: y and x of all measurements end to end, and which specimen each belongs to.

    Args:
        fits: of a calibrator with a prior.
        draws: of each specimen.
        generator: source of the draws; torch's own if None.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: a fit has no intervals, and therefore no draws.
    """
    az = _arviz()
    withheld = [curve.name for curve, reason in zip(fits.curves, fits.reasons, strict=True) if reason]
    if withheld:
        raise ValueError(f"no draws of {shortened(withheld)}: {next(filter(None, fits.reasons))}")
    rows = torch.multinomial(fits.weights, draws, replacement=True, generator=generator)  # (specimens, draws)
    drawn = fits.nodes.gather(1, rows[..., None].expand(-1, -1, fits.nodes.shape[-1]))
    values = fits.law.constrain(dict(zip(fits.law.names, drawn.unbind(-1), strict=True)))
    specimen = np.repeat(np.arange(len(fits)), [len(curve) for curve in fits.curves])
    groups = {
        "posterior": {name: value.T.numpy()[None] for name, value in values.items()},
        "observed_data": {"y": np.concatenate([curve.y for curve in fits.curves])},
        "constant_data": {"x": np.concatenate([curve.x for curve in fits.curves]), "specimen_index": specimen},
    }
    labels = {
        "coords": {"specimen": [curve.name for curve in fits.curves]},
        "dims": {**{name: ["specimen"] for name in values}, **{n: ["point"] for n in ("x", "y", "specimen_index")}},
    }
    old = hasattr(az, "InferenceData")
    result = az.from_dict(**groups, **labels) if old else az.from_dict(groups, **labels)
    for name, parameter in fits.law.parameters.items():
        result["posterior"][name].attrs["units"] = parameter.unit
    for group, name, axis in (("constant_data", "x", fits.law.x), ("observed_data", "y", fits.law.y)):
        result[group][name].attrs.update(long_name=axis.name, units=axis.unit)
    return result


def pymc_text(prior: Prior) -> str:
    """Return the prior of one new specimen as Python text for PyMC: a function to call inside a ``pm.Model``.

    Its unconstrained parameters are Gaussian, or a mixture for a prior of several kinds, widened by what the past
    leaves open as in :meth:`Prior.population`. The law stays yours to write; noise and outliers are constants of the
    text.

    >>> from scimeta.calibration.laws.law import Law, Parameter
    >>> from scimeta.calibration.family.prior import Prior
    >>> law = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> print(pymc_text(Prior(law, [[0.5]], [[0.25]], noise=0.05)).splitlines()[-3])
        return {
    >>> print(pymc_text(Prior(law, [[0.5]], [[0.25]], noise=0.05)).splitlines()[-2])
            "tau": pm.Deterministic("tau", pm.math.exp(u[0])),  # s
    """
    one = 'pm.MvNormal("unconstrained", mu=means[0], chol=factors[0])'
    several = (
        'pm.Mixture("unconstrained", w=SHARES, comp_dists=[\n'
        "        pm.MvNormal.dist(mu=mean, chol=factor) for mean, factor in zip(means, factors)\n    ])"
    )
    imports = ["import numpy as np", "import pymc as pm"]
    return _text(
        prior, imports, several if prior.modes else one, "pm.Deterministic", "pm.Normal({!r}, {!r}, {!r})", _PYMC
    )


def numpyro_text(prior: Prior) -> str:
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
    sample = f'numpyro.sample("unconstrained", {several if prior.modes else one})'
    normal = "numpyro.sample({!r}, dist.Normal({!r}, {!r}))"
    return _text(prior, imports, sample, "numpyro.deterministic", normal, _NUMPYRO)


def _text(
    prior: Prior, imports: list[str], sample: str, deterministic: str, normal: str, supports: dict[str, str]
) -> str:
    """Return the text of a module with the prior as a function."""
    law = prior.law
    kinds = prior.modes or (prior.whole,)
    coefficients = [kind.coefficients.tolist() for kind in kinds]
    covariances, errors = ([part.tolist() for part in parts] for parts in zip(*map(prior.spread, kinds), strict=True))
    lines = [f'"""Prior of law {law.name}, {prior.origin}; {law.y} against {law.x}."""', "", *imports, ""]
    lines.append(f"SHARES = np.array({[kind.share for kind in kinds]})  # of the kinds of specimens")
    lines.append(f"COEFFICIENTS = np.array({coefficients})  # (kinds, 1 + conditions, parameters)")
    lines.append(f"COVARIANCES = np.array({covariances})  # (kinds, parameters, parameters)")
    lines.append("# What the past leaves open of the coefficients: (kinds, 1 + conditions, parameters, the same again)")
    lines.append(f"ERRORS = np.array({errors})")
    lines.append(f"CENTRE, SCALE = np.array({prior.centre.tolist()}), np.array({prior.scale.tolist()})")
    lines.append(f"NOISE = {prior.noise!r}  # standard deviation of a measurement{_in(law.y.unit)}")
    if prior.outliers is not None:
        share, shift, spread = prior.outliers
        lines.append(
            f"OUTLIERS = {(share, shift, spread)}  # share of the points, their shift (either way), its spread"
        )
    if prior.misfit is not None:
        lines.append("# The law's misfit, which scimeta adds to what the law predicts, is not in here.")
    asked = f" ({', '.join(prior.conditions)})" if prior.conditions else ""
    lines += ["", "", "def parameters(conditions=()):"]
    lines.append(f'    """Return name -> value of a new specimen\'s parameters; conditions in order{asked}."""')
    lines.append("    z = np.append(1.0, (np.asarray(conditions, dtype=float) - CENTRE) / SCALE)")
    lines.append('    means = np.einsum("r,krp->kp", z, COEFFICIENTS)')
    lines.append('    covariances = COVARIANCES + np.einsum("r,krpqs,q->kps", z, ERRORS, z)')
    lines.append("    factors = np.linalg.cholesky(covariances)")
    lines += [f"    u = {sample}", "    return {"]
    for name, parameter in law.parameters.items():
        if name in law.fast:
            u = f"u[{law.fast.index(name)}]"
        else:
            u = normal.format(f"{name}_unconstrained", *prior.shared[name])
        value = supports[parameter.support].format(u)
        unit = f"  # {parameter.unit}" if parameter.unit else ""
        lines.append(f'        "{name}": {deterministic}("{name}", {value}),{unit}')
    return "\n".join([*lines, "    }"]) + "\n"


def _in(unit: str) -> str:
    return f", {unit}" if unit else ""


def _arviz() -> Any:
    """Return ArviZ, or its data package alone, or say how to have it."""
    try:
        import arviz
    except ImportError:
        try:
            import arviz_base as arviz
        except ImportError:
            raise ImportError("ArviZ is not installed; pip install arviz, or take draws by fit.sample(n)") from None
    return arviz

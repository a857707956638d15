"""The file of a prior: readable JSON, with the law that it is of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.misfit import Misfit
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.laws.law import Law

_FORMAT = "scimeta prior, version 3"
_LATER = ("modes", "outliers", "coefficient errors", "discrepancy", "objective")
_LACKS = {"scimeta prior, version 1": _LATER, "scimeta prior, version 2": ()}  # older files that are read
_MISFIT = ("lower", "upper", "values")
_DISCREPANCY = ("knots", "mean", "variance")


def prior_content(family: Family, covariates: Covariates, learned: Learned | None) -> dict:
    """Return what the file of a prior holds."""
    own, level_of = None if learned is None else learned.coefficient_covariances, covariates.indicators
    levels = {name: dict(levels) for name, levels in covariates.levels.items()}
    return {
        "format": _FORMAT,
        "law": _signature(family.law),
        "components": [
            {
                "weight": weight,
                "coefficients": coefficients.tolist(),
                "covariance": covariance.tolist(),
                "coefficient covariance": None if own is None else own[k].tolist(),
            }
            for k, (weight, coefficients, covariance) in enumerate(family.components)
        ],
        "noise": family.noise,
        "wander": family.wander,
        "conditions": {
            n: {"centre": c, "scale": s} | ({"level of": level_of[n][0]} if n in level_of else {})
            for n, c, s in zip(covariates.names, covariates.centre.tolist(), covariates.scale.tolist(), strict=True)
        },
        "ranges": {name: [float(end) for end in ends] for name, ends in covariates.ranges.items()},
        **({"levels": levels} if levels else {}),
        "shared": {
            name: {"value": float(value), "standard error": family.shared_errors[name]}
            for name, value in family.shared.items()
        },
        "misfit": family.misfit and {name: np.asarray(getattr(family.misfit, name)).tolist() for name in _MISFIT},
        "outliers": family.outliers and family.outliers._asdict(),
        "discrepancy": family.discrepancy
        and {name: getattr(family.discrepancy, name).tolist() for name in _DISCREPANCY},
        "past": learned
        and {
            "specimens": {name: np.asarray(row).tolist() for name, row in learned.specimens.items()},
            "x range": list(learned.x_range),
            "converged": learned.converged,
            "objective": learned.objective,
        },
    }


def prior_parts(path: str | Path, law: Law) -> tuple[Family, Covariates, Learned | None]:
    """Return what makes up the prior in a file, after the checks of :meth:`Prior.load`."""
    content = read_prior_file(path)
    if content["law"] != _signature(law):
        theirs, ours = content["law"], _signature(law)
        key = next(key for key in ours if theirs.get(key) != ours[key])
        raise ValueError(
            f"{path} was learned with another law: its {key} is {theirs.get(key)!r}, that of law {law.name} is "
            f"{ours[key]!r}"
        )
    try:
        return _parts(content if content["format"] == _FORMAT else _renewed(content), law)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error}; learn the prior again") from error
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error


def _parts(content: dict, law: Law) -> tuple[Family, Covariates, Learned | None]:
    """Return family, covariates and past of a file's content."""
    components, conditions, past = content["components"], content["conditions"], content["past"]
    misfit, outliers, discrepancy = content["misfit"], content["outliers"], content["discrepancy"]
    weights, coefficients, covariances = (
        torch.tensor([c[name] for c in components], dtype=torch.float64)
        for name in ("weight", "coefficients", "covariance")
    )
    family = Family(
        law,
        weights,
        coefficients,
        covariances,
        float(content["noise"]),
        {n: torch.tensor(float(s["value"]), dtype=torch.float64) for n, s in content["shared"].items()},
        {n: float(s["standard error"]) for n, s in content["shared"].items()},
        outliers and Outliers(*(float(outliers[name]) for name in Outliers._fields)),
        misfit and Misfit(float(misfit["lower"]), float(misfit["upper"]), np.array(misfit["values"], float)),
        discrepancy and Discrepancy(*(np.array(discrepancy[n], float) for n in _DISCREPANCY)),
        float(content["wander"]),
    )
    covariates = Covariates(
        tuple(conditions),
        np.array([c["centre"] for c in conditions.values()], float),
        np.array([c["scale"] for c in conditions.values()], float),
        {name: (float(low), float(high)) for name, (low, high) in content["ranges"].items()},
        {
            name: {str(level): int(n) for level, n in content["levels"][name].items()}
            for name in dict.fromkeys(c["level of"] for c in conditions.values() if "level of" in c)
        },
    )
    if past is None:
        return family, covariates, None
    own = [c["coefficient covariance"] for c in components]
    return (
        family,
        covariates,
        Learned(
            {name: np.array(row, float) for name, row in past["specimens"].items()},
            (float(past["x range"][0]), float(past["x range"][1])),
            None if any(one is None for one in own) else np.array(own, float),
            past["converged"] is True,
            str(past["objective"]),
        ),
    )


def _renewed(content: dict) -> dict:
    """Return the content of an older file in today's form.

    Where it has only standard errors of the coefficients, those of one condition are taken to correlate as the
    parameters do, and those of different conditions not at all.
    """
    for name in _LATER:
        if name not in _LACKS.get(content["format"], ()):
            content[name]  # raises KeyError
    whole = {
        "weight": 1.0,
        "coefficients": content["coefficients"],
        "covariance": content["covariance"],
        "coefficient covariance": None,
    }
    components = [{"weight": m["share"], "coefficient covariance": None, **m} for m in content.get("modes", ())]
    errors = content.get("coefficient errors")
    if not components and errors is not None:
        covariance = np.array(content["covariance"], float)
        scaled = np.array(errors, float) / np.sqrt(np.diag(covariance))
        own = np.einsum("rq,rf,qg,fg->rfqg", np.eye(len(scaled)), scaled, scaled, covariance)
        whole["coefficient covariance"] = own.tolist()
    past = {
        "specimens": content["past"],
        "x range": content["x range"],
        "converged": content["converged"],
        "objective": content.get("objective", "likelihood"),
    }
    later = {"outliers": content.get("outliers"), "discrepancy": content.get("discrepancy")}
    return {
        **content,
        **later,
        "ranges": {},
        "components": components or [whole],
        "past": past if content["past"] else None,
    }


def read_prior_file(path: str | Path) -> dict:
    """Return the content of a prior file as a dict, its law's name under ["law"]["name"].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole prior file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a prior file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a pipe or a device; save the prior to a file and name that")
    if not path.is_file():
        raise FileNotFoundError(f"no prior file {path}; make one with learn_prior(...).save({str(path)!r})")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if text.strip() and not text.lstrip().startswith("{"):
        raise ValueError(f"{path} is not a prior file of this version (expected JSON with format {_FORMAT!r})")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a whole prior file ({error}); learn the prior again") from error
    known = isinstance(content, dict) and content.get("format") in (_FORMAT, *_LACKS)
    if not known or not isinstance(content.get("law"), dict):
        raise ValueError(f"{path} is not a prior file of this version (expected format {_FORMAT!r})")
    return content


def _signature(law: Law) -> dict:
    """Return what makes two laws the same to a prior: name, parameters, axes."""
    return {
        "name": law.name,
        "parameters": {
            n: {"unit": p.unit, "support": p.support, "shared": p.shared} for n, p in law.parameters.items()
        },
        "x": list(law.x),
        "y": list(law.y),
    }

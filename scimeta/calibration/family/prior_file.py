"""The file of a prior: readable JSON, with the law that it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.misfit import Misfit
from scimeta.calibration.family.mixture import Mode
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.laws.law import Law

if TYPE_CHECKING:
    from scimeta.calibration.family.prior import Prior

_FORMAT = "scimeta prior, version 3"
_LATER = ("modes", "outliers", "coefficient errors", "discrepancy", "objective", "coefficient covariance", "ranges")
_LACKS = {"scimeta prior, version 1": _LATER, "scimeta prior, version 2": _LATER[-2:]}  # older files that are read
_DISCREPANCY = ("knots", "mean", "variance")


def prior_content(prior: Prior) -> dict:
    """Return what the file of a prior holds."""
    law = prior.law
    return {
        "format": _FORMAT,
        "law": _signature(law),
        "coefficients": prior.coefficients.tolist(),
        "covariance": prior.covariance.tolist(),
        "noise": prior.noise,
        "wander": prior.wander,
        "conditions": {
            n: {"centre": c, "scale": s}
            for n, c, s in zip(prior.conditions, prior.centre.tolist(), prior.scale.tolist(), strict=True)
        },
        "shared": {name: {"value": v, "standard error": e} for name, (v, e) in prior.shared.items()},
        "x range": list(prior.x_range),
        "converged": prior.converged,
        "misfit": None
        if prior.misfit is None
        else {"lower": prior.misfit.lower, "upper": prior.misfit.upper, "values": prior.misfit.values.tolist()},
        "modes": [
            {
                "share": m.share,
                "coefficients": m.coefficients.tolist(),
                "covariance": m.covariance.tolist(),
                "coefficient covariance": _listed(m.coefficient_covariance),
            }
            for m in prior.modes
        ],
        "outliers": None if prior.outliers is None else prior.outliers._asdict(),
        "coefficient errors": _listed(prior.coefficient_errors),
        "coefficient covariance": _listed(prior.coefficient_covariance),
        "ranges": {name: [float(end) for end in ends] for name, ends in prior.ranges.items()},
        "discrepancy": None
        if prior.discrepancy is None
        else {name: getattr(prior.discrepancy, name).tolist() for name in _DISCREPANCY},
        "objective": prior.objective,
        "past": {name: np.asarray(row).tolist() for name, row in prior.past.items()},
    }


def prior_fields(path: str | Path, law: Law) -> dict:
    """Return the fields of the prior in a file, after the checks of :meth:`Prior.load`."""
    content = read_prior_file(path)
    if content["law"] != _signature(law):
        theirs, ours = content["law"], _signature(law)
        key = next(key for key in ours if theirs.get(key) != ours[key])
        raise ValueError(
            f"{path} was learned with another law: its {key} is {theirs.get(key)!r}, that of law {law.name} is "
            f"{ours[key]!r}"
        )
    try:
        conditions, misfit = content["conditions"], content["misfit"]
        for name in _LATER:
            if name not in _LACKS.get(content["format"], ()):
                content[name]  # raises KeyError
        outliers, errors, discrepancy = (content.get(n) for n in ("outliers", "coefficient errors", "discrepancy"))
        own = content.get("coefficient covariance")
        return {
            "coefficients": np.array(content["coefficients"], float),
            "covariance": np.array(content["covariance"], float),
            "noise": float(content["noise"]),
            "conditions": tuple(conditions),
            "centre": np.array([c["centre"] for c in conditions.values()], float),
            "scale": np.array([c["scale"] for c in conditions.values()], float),
            "shared": {n: (float(s["value"]), float(s["standard error"])) for n, s in content["shared"].items()},
            "past": {name: np.array(row, float) for name, row in content["past"].items()},
            "x_range": (float(content["x range"][0]), float(content["x range"][1])),
            "converged": content["converged"] is True,
            "misfit": misfit
            and Misfit(float(misfit["lower"]), float(misfit["upper"]), np.array(misfit["values"], float)),
            "wander": float(content["wander"]),
            "modes": tuple(
                Mode(float(m["share"]), m["coefficients"], m["covariance"], m.get("coefficient covariance"))
                for m in content.get("modes", ())
            ),
            "coefficient_errors": None if errors is None else np.array(errors, float),
            "outliers": outliers and Outliers(*(float(outliers[name]) for name in Outliers._fields)),
            "discrepancy": discrepancy and Discrepancy(*(np.array(discrepancy[n], float) for n in _DISCREPANCY)),
            "objective": str(content.get("objective", "likelihood")),
            "coefficient_covariance": None if own is None else np.array(own, float),
            "ranges": {name: (float(low), float(high)) for name, (low, high) in content.get("ranges", {}).items()},
        }
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error}; learn the prior again") from error
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error


def read_prior_file(path: str | Path) -> dict:
    """Return the content of a prior file as a dict, its law's name under ["law"]["name"].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole prior file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a prior file")
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


def _listed(values: np.ndarray | None) -> list | None:
    return None if values is None else np.asarray(values).tolist()


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

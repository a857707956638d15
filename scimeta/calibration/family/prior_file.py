"""The file of a prior: readable JSON, with the law that it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from scimeta.calibration.family.discrepancy import Coordinate, Discrepancy
from scimeta.calibration.family.error_model import KINDS, ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import is_covariance
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.laws.law import Law

_FORMAT = "scimeta prior, version 4"
_V3 = "scimeta prior, version 3"
_LATER = ("modes", "outliers", "coefficient errors", "discrepancy", "objective")
_LACKS = {"scimeta prior, version 1": _LATER, "scimeta prior, version 2": ()}  # files without components
_ARRAYS = ("mean", "covariance", "mean_covariance", "population")  # of a discrepancy
_NUMBERS = ("size", "taper", "x_scale", "start")


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
        "error model": family.error_model._asdict(),
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
        "outliers": family.outliers and family.outliers._asdict(),
        "discrepancy": family.discrepancy and _discrepancy_content(family.discrepancy),
        "between": None if family.between is None else family.between.tolist(),
        "past": learned
        and {
            "specimens": {name: np.asarray(row).tolist() for name, row in learned.specimens.items()},
            "x range": list(learned.x_range),
            "converged": learned.converged,
            "objective": learned.objective,
            "groups": dict(learned.groups),
            "coverage": {group: float(share) for group, share in learned.coverage.items()},
        },
    }


def _discrepancy_content(found: Discrepancy) -> dict:
    """Return what the file holds of a discrepancy."""
    rest = {name.replace("_", " "): np.asarray(getattr(found, name)).tolist() for name in (*_ARRAYS, *_NUMBERS)}
    return {"coordinates": list(found.coordinates), "knots": [np.asarray(k).tolist() for k in found.knots], **rest}


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
        return _parts(content if content["format"] == _FORMAT else _renewed(content, law), law)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error}; learn the prior again") from error
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error


def _parts(content: dict, law: Law) -> tuple[Family, Covariates, Learned | None]:
    """Return family, covariates and past of a file's content."""
    components = content["components"]
    outliers, discrepancy, between = content["outliers"], content["discrepancy"], content["between"]
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
        _error_model(content["error model"]),
        discrepancy and _discrepancy(discrepancy, len(law.fast)),
        None if between is None else _between(between, len(law.fast)),
    )
    return family, _covariates(content), _learned(content)


def _error_model(content: dict) -> ErrorModel:
    """Return the error model of a file's content."""
    kind, numbers = content["kind"], [float(content[name]) for name in ErrorModel._fields[1:]]
    share, power, typical, least = numbers
    if kind not in KINDS:
        raise ValueError(f"error model: the kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if not (np.isfinite(numbers).all() and 0.0 <= share <= 1.0 and power >= 0.0 and typical > 0.0 and least >= 0.0):
        raise ValueError(
            f"error model: needs a share from 0 to 1, a power of 0 or more, a positive typical reading and a least one "
            f"of 0 or more; got {numbers}"
        )
    return ErrorModel(kind, *numbers)


def _discrepancy(content: dict, fast: int) -> Discrepancy:
    """Return the discrepancy of a file's content."""
    coordinates, knots = tuple(content["coordinates"]), tuple(np.array(one, float) for one in content["knots"])
    if set(coordinates) - set(get_args(Coordinate)) or len(knots) != len(coordinates):
        raise ValueError(
            f"discrepancy: expected knots for each coordinate, one of {', '.join(get_args(Coordinate))}; got "
            f"{len(knots)} for {list(coordinates)}"
        )
    mean, own, doubt, population = (np.array(content[name.replace("_", " ")], float) for name in _ARRAYS)
    size, taper, x_scale, start = numbers = [float(content[name.replace("_", " ")]) for name in _NUMBERS]
    if any(k.ndim != 1 or len(k) < 2 or not np.isfinite(k).all() or (np.diff(k) <= 0).any() for k in knots):
        raise ValueError("discrepancy: needs two knots or more for each coordinate, rising")
    columns = sum(map(len, knots)) + (start != 0.0)
    if mean.shape != (columns,) or not np.isfinite(mean).all():
        raise ValueError(f"discrepancy: mean has shape {mean.shape}; expected {columns} finite values")
    _require_covariance("discrepancy: covariance", own, columns)
    _require_covariance("discrepancy: mean covariance", doubt, columns)
    _require_covariance("discrepancy: population", population, fast)
    if not np.isfinite(numbers).all() or size <= 0.0 or min(taper, x_scale, start) < 0.0:
        raise ValueError(
            f"discrepancy: needs a positive size and {', '.join(_NUMBERS[1:])} of 0 or more; got {numbers}"
        )
    return Discrepancy(coordinates, knots, mean, own, doubt, population, size, taper, x_scale, start)


def _between(rows: list[list[float]], fast: int) -> torch.Tensor:
    """Return the covariance between groups of a file's content."""
    matrix = np.array(rows, float)
    _require_covariance("between", matrix, fast)
    return torch.from_numpy(matrix)


def _require_covariance(name: str, matrix: np.ndarray, size: int) -> None:
    if matrix.shape != (size, size) or not is_covariance(matrix):
        raise ValueError(f"{name}: expected a covariance of shape {(size, size)}, symmetric, no variance negative")


def _covariates(content: dict) -> Covariates:
    """Return the conditions of a file's content."""
    conditions = content["conditions"]
    return Covariates(
        tuple(conditions),
        np.array([c["centre"] for c in conditions.values()], float),
        np.array([c["scale"] for c in conditions.values()], float),
        {name: (float(low), float(high)) for name, (low, high) in content["ranges"].items()},
        {
            name: {str(level): int(n) for level, n in content["levels"][name].items()}
            for name in dict.fromkeys(c["level of"] for c in conditions.values() if "level of" in c)
        },
    )


def _learned(content: dict) -> Learned | None:
    """Return the past of a file's content; None of a prior set by hand."""
    past = content["past"]
    if past is None:
        return None
    own = [c["coefficient covariance"] for c in content["components"]]
    return Learned(
        {name: np.array(row, float) for name, row in past["specimens"].items()},
        (float(past["x range"][0]), float(past["x range"][1])),
        None if any(one is None for one in own) else np.array(own, float),
        past["converged"] is True,
        str(past["objective"]),
        {name: str(group) for name, group in past["groups"].items()},
        {group: float(share) for group, share in past["coverage"].items()},
    )


def _renewed(content: dict, law: Law) -> dict:
    """Return the content of an older file in today's form.

    The older misfit over the law's prediction and discrepancy over x become the parts of one discrepancy, with the same
    values at the same knots. Between its knots the one was a Catmull-Rom spline and the other straight lines; both are
    now the cubic splines of :class:`Discrepancy`, so that what such a prior predicts between knots differs a little
    from what it did, and its bands there are wider. The wander is dropped: it told how much of the noise was smooth,
    and the noise holds it still.
    """
    content = content if content["format"] == _V3 else _with_components(content)
    count = len(content["past"]["specimens"]) if content["past"] else 0
    content["wander"]  # raises KeyError
    past = content["past"] and {**content["past"], "groups": {}, "coverage": {}}
    found = _older_discrepancy(content["misfit"], content["discrepancy"], count, len(law.fast))
    later = {"error model": ErrorModel()._asdict(), "between": None}
    return {**content, **later, "discrepancy": found and _discrepancy_content(found), "past": past}


def _older_discrepancy(misfit: dict | None, along_x: dict | None, count: int, fast: int) -> Discrepancy | None:
    """Return the misfit and the discrepancy of an older file as one.

    A misfit, ``values`` at evenly spaced predictions from ``lower`` to ``upper``, was the same in all specimens and
    taken as known. A discrepancy over x was expected of a new specimen with (1 + 1/n) dof / (dof - 2) times its
    variance, dof = max(n - 1, 3), having been learned from n >= 2: what that is more than the variance is how well its
    mean is known.
    """
    coordinates: list[Coordinate] = []
    knots, means, variances, doubts = [], [], [], []
    if misfit is not None:
        values = np.array(misfit["values"], float)
        coordinates.append("prediction")
        knots.append(np.linspace(float(misfit["lower"]), float(misfit["upper"]), len(values)))
        means.append(values)
        variances.append(np.zeros(len(values)))
        doubts.append(np.zeros(len(values)))
    if along_x is not None:
        places, mean, variance = (np.array(along_x[name], float) for name in ("knots", "mean", "variance"))
        dof = max(count - 1, 3)
        wider = (1.0 + 1.0 / count) * dof / (dof - 2.0) if count >= 2 else 1.0
        coordinates.append("x")
        knots.append(places)
        means.append(mean)
        variances.append(variance)
        doubts.append((wider - 1.0) * variance)
    if not coordinates:
        return None
    own, common = (np.diag(np.concatenate(parts)) for parts in (variances, doubts))
    return Discrepancy(tuple(coordinates), tuple(knots), np.concatenate(means), own, common, np.eye(fast), taper=0.0)


def _with_components(content: dict) -> dict:
    """Return the content of a file of version 1 or 2 in the form of version 3.

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
    known = isinstance(content, dict) and content.get("format") in (_FORMAT, _V3, *_LACKS)
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

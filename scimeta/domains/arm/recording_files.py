"""The two kinds of file that describe one recording: robot.yaml, and the table of a trial."""

from __future__ import annotations

import csv
import difflib
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy import ndarray

from scimeta.domains.arm.derivatives import GAP, Filter, differentiated
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.suspicions import check_units, check_velocities
from scimeta.domains.arm.urdf import Arm, checked_gravity, read_urdf

_KEYS = ("urdf", "tip", "joints", "angle", "torque_sign", "gravity", "sample_rate", "filter")
_CHANNEL = re.compile(r"(q|qd|qdd|tau)(\d+)")


@dataclass(frozen=True, eq=False)
class Setup:
    """What robot.yaml says.

    Attributes:
        arm: the nominal arm.
        columns: (n,) position among q1, q2, ... of each of the arm's joints.
        scale: (n,) what positions are multiplied by to be in rad.
        sign: (n,) what torques are multiplied by to be the motors'.
        rate: rows a second, or None.
        filter: for derivatives.
        stated: the keys that are given.
    """

    arm: Arm
    columns: ndarray
    scale: ndarray
    sign: ndarray
    rate: float | None
    filter: Filter
    stated: frozenset[str]


def read_setup(path: Path) -> Setup:
    """Return what robot.yaml says, or say what is wrong with it."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or "urdf" not in given:
        raise ValueError(f"{path.name}: expected at least 'urdf: file'; it may have {', '.join(_KEYS)}")
    check_names(path.name, "key", given, _KEYS, strict=True)
    if not isinstance(given["urdf"], str):
        raise ValueError(f"{path.name}: urdf must be a path from this folder; got {given['urdf']!r}")
    arm = read_urdf(path.parent / given["urdf"], given.get("tip"))
    if "gravity" in given:
        try:
            arm = replace(arm, chain=arm.chain._replace(gravity=checked_gravity(given["gravity"])))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    n = len(arm.joints)
    angle = given.get("angle", "rad")
    if angle not in ("rad", "deg"):
        raise ValueError(f"{path.name}: angle is rad or deg; got {angle!r}")
    turning = (arm.chain.slides == 0).numpy()
    sign = np.asarray(given.get("torque_sign", 1))
    if sign.shape not in ((), (n,)) or not np.isin(sign, (1, -1)).all():
        raise ValueError(f"{path.name}: torque_sign is 1 or -1, or a list of {n} of them; got {given['torque_sign']!r}")
    rate = given.get("sample_rate")
    if rate is not None and not (_number(rate) and rate > 0):
        raise ValueError(f"{path.name}: sample_rate is a number of rows a second; got {rate!r}")
    columns = _columns(path.name, arm, given.get("joints"))
    return Setup(
        arm,
        columns,
        np.where(turning & (angle == "deg"), math.pi / 180, 1.0),
        np.broadcast_to(sign, (n,)).astype(float)[columns],
        rate,
        _filter(path.name, given.get("filter", {})),
        frozenset(given),
    )


def read_log(path: Path, setup: Setup) -> Log:
    """Return the log of a trial's table: checked, in rad, in the order of the arm's joints, with all derivatives."""
    name = path.name
    table, rows = _numbers(path)
    parts = _channels(name, table, setup)
    t = table["t"].to_numpy()
    _check_time(name, t, rows, setup, complete="qdd" in parts)
    for joint, torque in enumerate(parts["tau"].T):
        if not torque.any():
            raise ValueError(
                f"{name}, column 'tau{setup.columns[joint] + 1}': the torque of joint {setup.arm.joints[joint]!r} is "
                "zero throughout; is it recorded, and in this column?"
            )
    q, qd, tau = parts["q"] * setup.scale, parts.get("qd"), parts["tau"] * setup.sign
    qd = None if qd is None else qd * setup.scale
    if "qdd" in parts:
        log = _log(t, q, qd, parts["qdd"] * setup.scale, tau)
    else:
        try:
            log = _log(*differentiated(t, tau, q, qd, setup.filter))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        rows = np.interp(log.t.numpy(), t, rows).round().astype(int)
    if qd is not None:
        check_velocities(name, setup.arm, _log(t, q, qd, qd, tau))
    check_units(name, setup.arm, log, rows)
    return log


def check_names(file: str, kind: str, given: Iterable[str], known: tuple[str, ...], *, strict: bool) -> None:
    """Raise for a name that is not known (strict) or that is nearly a known one."""
    for name in given:
        if name in known:
            continue
        close = difflib.get_close_matches(re.split(r"[ \[(]", str(name).strip().lower())[0], known, 1, cutoff=0.75)
        if close or strict:
            guess = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"{file}: there is no {kind} {name!r}; {guess}")


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Return a CSV file as pandas reads it, blank rows left out; the index is the row in the file."""
    name = path.name
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header, first = file.readline(), file.readline()
    if not header.strip():
        raise ValueError(f"{name}: the first row is blank; expected the columns' names")
    separator = max(",;\t", key=header.count)
    decimal = "," if separator != "," and "," in first else "."
    try:
        cells = len(next(csv.reader([first], delimiter=separator), []))
        names = len(next(csv.reader([header], delimiter=separator)))
        if cells > names:  # pandas would take the first column for row labels
            raise ValueError(f"row 2 has {cells} cells, the header has {names}")
        table = pd.read_csv(
            path, sep=separator, decimal=decimal, skip_blank_lines=False, skipinitialspace=True, index_col=False,
            encoding="utf-8-sig", **options,
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own are ValueErrors
        raise ValueError(f"{name}: {' '.join(str(error).split())}; save it as a CSV table") from None
    table.columns = [str(column).strip() for column in table.columns]
    table.index = table.index + 2
    return table.dropna(how="all")


def _numbers(path: Path) -> tuple[pd.DataFrame, ndarray]:
    """The table of a trial, all cells finite numbers, and the rows (samples,) in the file."""
    table = read_table(path)
    name = path.name
    if "t" not in table:
        raise ValueError(f"{name}: there is no column 't'; expected t, q1, ..., tau1, ..., got {', '.join(table)}")
    wanted = ["t", *(column for column in table if _CHANNEL.fullmatch(column))]
    numbers = table[wanted].apply(pd.to_numeric, errors="coerce")
    values = numbers.to_numpy(dtype=float)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        cell = table[wanted[column]].iloc[row]
        what = "the value is missing" if pd.isna(cell) else f"{str(cell)!r} is not a finite number"
        raise ValueError(
            f"{name}, row {table.index[row]}, column {wanted[column]!r}: {what}; correct it, or cut the trial there "
            f"({len(bad)} such cells)"
        )
    if len(table) < 2:
        raise ValueError(f"{name}: there are {len(table)} rows of numbers; a trial needs at least two")
    return pd.DataFrame(values, columns=wanted), table.index.to_numpy()


def _channels(name: str, table: pd.DataFrame, setup: Setup) -> dict[str, ndarray]:
    """q, tau and, if recorded, qd and qdd, each (samples, n) in the order of the arm's joints."""
    n = len(setup.columns)
    parts = {}
    for kind in ("q", "tau", "qd", "qdd"):
        found = sorted(int(match[2]) for column in table if (match := _CHANNEL.fullmatch(column)) and match[1] == kind)
        if not found and kind in ("qd", "qdd"):
            continue
        if found != list(range(1, n + 1)):
            shown = ", ".join(f"{kind}{i}" for i in found) or "none"
            raise ValueError(
                f"{name}: the arm has {n} joints ({', '.join(setup.arm.joints)}), so columns {kind}1 to {kind}{n} are "
                f"expected; there are {shown}. Add them, or set tip in robot.yaml to where the recorded joints end"
            )
        parts[kind] = table[[f"{kind}{i + 1}" for i in setup.columns]].to_numpy()
    if "qdd" in parts and "qd" not in parts:
        raise ValueError(f"{name}: there are accelerations qdd but no velocities; add qd1 to qd{n}, or leave out both")
    return parts


def _check_time(name: str, t: ndarray, rows: ndarray, setup: Setup, *, complete: bool) -> None:
    step = np.diff(t)
    if (step <= 0).any():
        at = int((step <= 0).argmax()) + 1
        how = "runs back" if step[at - 1] < 0 else "stands still"
        raise ValueError(
            f"{name}, row {rows[at]}, column 't': time {how}, from {t[at - 1]:.9g} to {t[at]:.9g} s; sort the rows, "
            "drop repeated ones, or make each recording a trial of its own"
        )
    usual = float(np.median(step))
    if setup.rate is not None and not 0.8 < usual * setup.rate < 1.25:
        unit = "; t is in ms? Give s" if 0.8 < usual * setup.rate / 1000 < 1.25 else ""
        raise ValueError(
            f"{name}, column 't': {1 / usual:.6g} rows a second, robot.yaml says sample_rate: {setup.rate:g}{unit}"
        )
    if step.max() > GAP * usual:
        at = int(step.argmax()) + 1
        problem = (
            f"{name}, row {rows[at]}, column 't': a gap of {step[at - 1]:.4g} s after {t[at - 1]:.6g} s, where rows "
            f"are {usual:.3g} s apart"
        )
        if not complete:
            raise ValueError(
                f"{problem}; no derivatives can be taken across it: cut the trial there, or record qd, qdd"
            )
        warnings.warn(f"{problem}; rows are missing", stacklevel=4)


def _columns(name: str, arm: Arm, joints: object) -> ndarray:
    """(n,) where among the recorded joints each of the arm's is."""
    if joints is None:
        return np.arange(len(arm.joints))
    if not isinstance(joints, list) or sorted(map(str, joints)) != sorted(arm.joints):
        raise ValueError(f"{name}: joints must list {', '.join(arm.joints)}, in the order of the columns; got {joints}")
    return np.array([joints.index(joint) for joint in arm.joints])


def _filter(name: str, given: object) -> Filter:
    if not isinstance(given, dict) or not all(_number(value) for value in given.values()):
        raise ValueError(f"{name}: filter is {{window: seconds, degree: number}}; got {given!r}")
    check_names(name, "key of filter", given, ("window", "degree"), strict=True)
    try:
        return Filter(**given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _log(*parts: ndarray) -> Log:
    return Log(*(torch.tensor(part) for part in parts))

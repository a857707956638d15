"""Recordings of the user's own arm: a folder with robot.yaml, trials.csv and one table for each trial.

``robot.yaml`` describes the arm and how it was recorded:

    urdf: arm.urdf            # path from this folder
    tip: tool_link            # link that carries the payload; by default as `read_urdf`
    joints: [a1, a2, a3]      # whose columns are q1, q2, ...; by default as the URDF has them
    angle: rad                # or deg: then positions, velocities and accelerations of turning joints are converted
    torque_sign: 1            # -1, or one a column, where tau is not what the motors exert on the arm but its opposite
    gravity: [0, 0, -9.81]    # m/s^2, where free fall points in the axes of the URDF's base; upright by default
                              # (set_gravity of Universal Robots has the opposite sign)
    sample_rate: 1000         # 1/s; compared with t
    filter: {window: 0.2, degree: 4}   # makes qd and qdd where they were not recorded: see `Filter`

``trials.csv`` has a row for each trial: ``trial`` (its file, with or without .csv), ``mass`` (kg), ``com_x, com_y,
com_z`` (m, in the tip's frame), ``tare`` (file of the same movement without a load) and ``split`` (train if blank).
All but ``trial`` may be blank or left out.

A trial's table has the columns ``t, q1, ..., tau1, ...`` and, if recorded, ``qd1, ...`` and ``qdd1, ...``, in s, rad,
rad/s, rad/s^2 and Nm (m and N where prismatic).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scimeta.domains.arm.dynamics import Chain
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.payloads import box
from scimeta.domains.arm.recording_files import Setup, check_names, read_log, read_setup, read_table
from scimeta.domains.arm.suspicions import check_torques
from scimeta.domains.arm.urdf import Arm, read_urdf
from scimeta.files import write_atomically

_COM = ["com_x", "com_y", "com_z"]
_COLUMNS = ("trial", "mass", *_COM, "tare", "split")
_FARTHEST = 2.0  # m; no centre of mass is as far from the tip
_NOT_THE_SAME = 0.1  # rad; so far a tare may be, on average, from its trial at the same part of the movement


@dataclass(frozen=True, eq=False)
class Trials:
    """Recordings of one arm with several payloads.

    Attributes:
        arm: the nominal arm.
        names: of the trials.
        logs: one a trial, each with its own number of samples.
        mass: (trials,) kg; nan where not known.
        com: (trials, 3) centre of mass in the tip's frame, m; nan where not known.
        split: what each trial is for: train, test, ...
        tares: the same movement without a load; None where not recorded.
    """

    arm: Arm
    names: tuple[str, ...]
    logs: tuple[Log, ...]
    mass: Tensor
    com: Tensor
    split: tuple[str, ...]
    tares: tuple[Log | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, split: str) -> Trials:
        """Return the trials of one split; ValueError if there are none."""
        rows = [row for row, own in enumerate(self.split) if own == split]
        if not rows:
            raise ValueError(f"no trial is for {split!r}; there are {', '.join(sorted(set(self.split)))}")
        picked = (tuple(x[row] for row in rows) for x in (self.names, self.logs, self.split, self.tares))
        names, logs, splits, tares = picked
        return Trials(self.arm, names, logs, self.mass[rows], self.com[rows], splits, tares)

    def __str__(self) -> str:
        seconds = [float(log.t[-1] - log.t[0]) for log in self.logs]
        counts = [len(log.t) for log in self.logs]
        known = self.mass[self.mass.isfinite()]
        masses = f"{known.min():.3g} to {known.max():.3g} kg" if len(known) else "none"
        splits = ", ".join(f"{self.split.count(name)} {name}" for name in dict.fromkeys(self.split))
        return (
            f"{len(self)} trials ({splits}) of {len(self.arm.joints)} joints to {self.arm.tip}\n"
            f"  each       {min(seconds):.3g} to {max(seconds):.3g} s, {min(counts)} to {max(counts)} samples\n"
            f"  mass       {len(known)} known, {masses}\n"
            f"  tare       {sum(tare is not None for tare in self.tares)} trials"
        )


def read_trials(folder: str | PathLike[str]) -> Trials:
    """Return the recordings in a folder, checked.

    Args:
        folder: holds robot.yaml, trials.csv and the tables, as the head of this file describes.
    Raises: FileNotFoundError that names what is missing; ValueError that names file, row and column: see `read_log`,
        `check_units` and `check_torques`. Where robot.yaml states the order or the sign that the data contradict, the
        contradiction is a warning.
    """
    folder = Path(folder)
    missing = [name for name in ("robot.yaml", "trials.csv") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"read_trials: there is no {' and no '.join(missing)} in {folder}; see read_trials")
    setup = read_setup(folder / "robot.yaml")
    table = _trial_table(folder / "trials.csv")
    files = [_with_suffix(name) for name in table["trial"]]
    tares = [_with_suffix(name) if name else None for name in table["tare"]]
    absent = [name for name in dict.fromkeys([*files, *filter(None, tares)]) if not (folder / name).is_file()]
    if absent:
        shown = ", ".join(absent[:8]) + ", ..." * (len(absent) > 8)
        raise FileNotFoundError(f"trials.csv names {len(absent)} files that are not in {folder}: {shown}")
    logs: dict[str, Log] = {}
    for name in dict.fromkeys([*files, *filter(None, tares)]):
        logs[name] = read_log(folder / name, setup)
    _check_angle(logs.values(), setup)
    for file, tare in zip(files, tares, strict=True):
        if tare is not None:
            _check_tare(file, logs[file], tare, logs[tare], setup)
    trials = Trials(
        setup.arm,
        tuple(table["trial"]),
        tuple(logs[name] for name in files),
        torch.tensor(table["mass"].to_numpy(float)),
        torch.tensor(table[_COM].to_numpy(float)),
        tuple(table["split"]),
        tuple(None if name is None else logs[name] for name in tares),
    )
    # Unknown payloads count as none; a point will do for the others.
    held = box(trials.mass, trials.com, torch.zeros(3, dtype=torch.float64)).nan_to_num()
    check_torques(setup.arm, trials.logs, held, setup.columns, setup.sign, setup.stated)
    return trials


def write_trials(
    folder: str | PathLike[str],
    urdf: str | PathLike[str],
    logs: Log | Sequence[Log],
    *,
    tip: str | None = None,
    gravity: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    mass: Sequence[float] | Tensor | None = None,
    com: Sequence[Sequence[float]] | Tensor | None = None,
    split: Sequence[str] | None = None,
    tares: Sequence[Log | None] | None = None,
    derivatives: bool = True,
) -> Path:
    """Return the folder after writing recordings that `read_trials` reads: for a simulator, or a robot's driver.

    Args:
        folder: made if it does not exist.
        urdf: the nominal arm; copied into the folder.
        logs: one a trial, or a batch (trials, samples, n); tensors or arrays, columns in the order of the arm's joints.
        tip, gravity: as `read_urdf`.
        names: of the trials and their files; trial_1, ... by default.
        mass: (trials,) kg, nan where not known; com: (trials, 3) m.
        split: what each trial is for; train by default.
        tares: the same movements without a load, None where there is none.
        derivatives: False leaves qd and qdd out of the tables.
    Raises: FileExistsError if the folder holds recordings, or is a file; ValueError for what does not fit, as
        `check_log`.
    """
    folder, urdf = Path(folder), Path(urdf)
    if any((folder / name).exists() for name in ("robot.yaml", "trials.csv")):
        raise FileExistsError(f"write_trials: {folder} holds recordings; choose another folder, or remove them")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"write_trials: {folder} is a file; name a folder")
    arm = read_urdf(urdf, tip, gravity)
    if isinstance(logs, Log):
        logs = [Log(*parts) for parts in zip(*check_log(arm, logs), strict=True)]
    logs = [check_log(arm, log) for log in logs]
    count = len(logs)
    names = [f"trial_{i + 1:0{len(str(count))}}" for i in range(count)] if names is None else list(names)
    tares = [None] * count if tares is None else [None if tare is None else check_log(arm, tare) for tare in tares]
    split = ["train"] * count if split is None else list(split)
    for what, values in (("names", names), ("split", split), ("tares", tares)):
        if len(values) != count or (what == "names" and len(set(values)) < count):
            raise ValueError(
                f"write_trials: {what} must be one for each of {count} trials, names different; got {values}"
            )
    table = pd.DataFrame({"trial": names})
    table["mass"] = np.nan if mass is None else _column("mass", mass, (count,))
    table[_COM] = np.nan if com is None else _column("com", com, (count, 3))
    table["tare"] = [f"{name}_tare" if tare is not None else "" for name, tare in zip(names, tares, strict=True)]
    table["split"] = split
    folder.mkdir(parents=True, exist_ok=True)
    for name, log, tare in zip(names, logs, tares, strict=True):
        _write_log(folder / f"{name}.csv", log, derivatives)
        if tare is not None:
            _write_log(folder / f"{name}_tare.csv", tare, derivatives)
    copy = folder / urdf.name
    if copy.resolve() != urdf.resolve():
        write_atomically(copy, lambda temporary: temporary.write_bytes(urdf.read_bytes()))
    write_atomically(folder / "trials.csv", lambda temporary: table.to_csv(temporary, index=False))
    robot = _robot_yaml(arm, urdf.name)  # last: a broken write has none
    write_atomically(folder / "robot.yaml", lambda temporary: temporary.write_text(robot, encoding="utf-8"))
    return folder


def resample(logs: Sequence[Log], samples: int) -> Log:
    """Return logs of any lengths as one batch: of each, the rows nearest to instants evenly over it.

    The instants are (k + 1/2) / samples of the log, k = 0, 1, ...; rows are taken as they are, so that their noise
    stays what it was.

    Args:
        logs: one a trial, such as ``trials.logs``.
        samples: of each trial.
    Returns: the batch, t (trials, samples) and the others (trials, samples, n).
    Raises: ValueError: no logs, a log that is missing or has fewer rows than samples.

    >>> t = torch.arange(10.0)
    >>> resample([Log(t, *[t[:, None]] * 4), Log(t[:6], *[t[:6, None]] * 4)], 3).t
    tensor([[1., 4., 7.],
            [1., 2., 4.]])
    """
    if not len(logs) or samples != int(samples) or samples < 1:
        raise ValueError(f"resample: expected at least one log and one sample; got {len(logs)} logs, samples={samples}")
    picked = []
    for number, log in enumerate(logs):
        if log is None or len(log.t) < samples:
            had = "is missing" if log is None else f"has {len(log.t)} rows"
            raise ValueError(f"resample: log {number} (the first is 0) {had}; {samples} samples are asked for")
        part = (torch.arange(samples, dtype=log.t.dtype) + 0.5) / samples
        wanted = log.t[0] + part * (log.t[-1] - log.t[0])
        after = torch.searchsorted(log.t, wanted).clamp(1, len(log.t) - 1)
        rows = after - (wanted - log.t[after - 1] <= log.t[after] - wanted).long()
        picked.append(Log(*(values[rows] for values in log)))
    return Log(*(torch.stack(parts) for parts in zip(*picked, strict=True)))


def _trial_table(path: Path) -> pd.DataFrame:
    """trials.csv with all its columns: texts without blanks, numbers with nan."""
    table = read_table(path, dtype=str)
    check_names(path.name, "column", table.columns, _COLUMNS, strict=False)
    if "trial" not in table or not len(table):
        raise ValueError(
            f"{path.name}: expected a column 'trial' and a row for each; others are {', '.join(_COLUMNS[1:])}"
        )
    for column in _COLUMNS:
        cells = table[column] if column in table else pd.Series(np.nan, table.index, dtype=object)
        if column in ("mass", *_COM):
            numbers = pd.to_numeric(cells, errors="coerce")
            wrong = (numbers.isna() & cells.notna()) | np.isinf(numbers)
            if wrong.any():
                row = wrong.idxmax()
                raise _error(path, row, column, f"{cells[row]!r} is not a number; leave it blank if unknown")
            table[column] = numbers.astype(float)
        else:
            table[column] = cells.fillna("").str.strip()
    table["split"] = table["split"].replace("", "train")
    _check_rows(path, table)
    return table


def _check_rows(path: Path, table: pd.DataFrame) -> None:
    for row, trial in table.iterrows():
        com = trial[_COM].astype(float)
        if not trial["trial"]:
            raise _error(path, row, "trial", "the name is blank; write the name of the trial's file")
        if trial["mass"] < 0:
            raise _error(path, row, "mass", f"{trial['mass']:g} kg is negative; leave it blank if unknown")
        if com.isna().any() and not com.isna().all():
            raise _error(path, row, com.isna().idxmax(), "the value is missing; give com_x, com_y and com_z, or none")
        if (com.abs() > _FARTHEST).any():
            column = (com.abs() > _FARTHEST).idxmax()
            raise _error(path, row, column, f"{com[column]:g} m from the tip is too far for a payload; in mm? Give m")
    twice = table["trial"].duplicated()
    if twice.any():
        raise _error(path, twice.idxmax(), "trial", f"{table['trial'][twice.idxmax()]!r} is there twice; keep one row")


def _error(path: Path, row: object, column: str, problem: str) -> ValueError:
    return ValueError(f"{path.name}, row {row}, column {column!r}: {problem}")


def _check_angle(logs: Iterable[Log], setup: Setup) -> None:
    """Warn if what robot.yaml says are degrees hardly moves."""
    degrees = torch.from_numpy(setup.scale < 1)
    if degrees.any() and max(float(log.q[:, degrees].abs().max()) for log in logs) < math.radians(2 * math.pi):
        warnings.warn(
            "robot.yaml says angle: deg, but no joint is ever more than 6 degrees from zero; are these radians?",
            stacklevel=3,
        )


def _check_tare(file: str, log: Log, tare: str, unloaded: Log, setup: Setup) -> None:
    """Warn if the tare is not of the same movement."""
    samples = min(20, len(log.t), len(unloaded.t))
    batch = resample([log, unloaded], samples)
    off = (batch.q[0] - batch.q[1]).abs().mean(0)
    if (off > _NOT_THE_SAME).any():
        joint = setup.arm.joints[int(off.argmax())]
        warnings.warn(
            f"{file}: its tare {tare} is of another movement: joint {joint!r} is {off.max():.2g} rad off on average; "
            "a tare repeats the trial's movement without the load",
            stacklevel=3,
        )


def _with_suffix(name: str) -> str:
    return name if name.endswith(".csv") else f"{name}.csv"


def _column(name: str, values: object, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.shape != shape:
        raise ValueError(f"write_trials: {name} must be {shape}, got {values.shape}")
    return values


def _write_log(path: Path, log: Log, derivatives: bool) -> None:
    kinds = ("q", "qd", "qdd", "tau") if derivatives else ("q", "tau")
    columns = {"t": log.t.numpy()}
    for kind in kinds:
        columns |= {f"{kind}{joint + 1}": values for joint, values in enumerate(getattr(log, kind).numpy().T)}
    table = pd.DataFrame(columns)
    write_atomically(path, lambda temporary: table.to_csv(temporary, index=False, float_format="%.12g"))


def _robot_yaml(arm: Arm, urdf: str) -> str:
    import yaml

    settings = {"urdf": urdf, "tip": arm.tip, "angle": "rad"}
    if not torch.equal(arm.chain.gravity, Chain._field_defaults["gravity"]):
        settings["gravity"] = arm.chain.gravity.tolist()
    return yaml.safe_dump(settings, sort_keys=False)

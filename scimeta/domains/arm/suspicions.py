"""What recordings of an arm get wrong without looking wrong: units, the mounting, signs of torques, order of joints.

A nominal model is enough to tell: whatever the arm holds and however it rubs, most joints mostly carry the arm itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scimeta.domains.arm.dynamics import GRAVITY, inverse_dynamics
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.mounting import Explanation, MountingTest, explain
from scimeta.domains.arm.urdf import Arm

_DEGREES = 180 / math.pi
_FASTEST = 20.0  # rad/s; no joint of an arm that carries things turns as fast
_BEYOND = 0.1  # rad; as far past its limits a joint may be measured
_SPANS = 50
_STILL = 1e-3  # rad from span to span; a joint that moves less says nothing
_FLIPPED = -0.5  # agreement from which on a sign is wrong
_ALIEN = 0.2  # mean agreement below which the URDF is not the arm's
_FAIR = 0.35  # mean agreement that an order must have to be proposed
# What another order's mean agreement must be better by: of one trial with a heavy unknown load, a wrong order may fit
# better by a quarter; of many, none does by more than a few hundredths, and even swapped neighbours show.
_BETTER, _BETTER_OF_ONE = 0.1, 0.25
_ROWS = 300  # enough to tell


def check_units(name: str, arm: Arm, log: Log, rows: ndarray) -> None:
    """Raise where positions or velocities are in degrees or times in ms; warn of positions past the limits.

    Args:
        name: file of the log.
        arm: whose limits hold.
        log: one trial, in the order of the arm's joints.
        rows: (samples,) rows of the file.
    """
    remedy = "write angle: deg in robot.yaml if the file is in degrees, so that it is converted"
    turning = arm.chain.slides == 0
    past = torch.maximum(arm.lower - log.q, log.q - arm.upper)  # (samples, n)
    in_degrees = torch.maximum(arm.lower - log.q / _DEGREES, log.q / _DEGREES - arm.upper)
    if (past > _BEYOND).any():
        row, joint = divmod(int(past.argmax()), len(arm.joints))
        limits = f"[{arm.lower[joint]:.3g}, {arm.upper[joint]:.3g}]"
        where = f"{name}, row {rows[row]}: joint {arm.joints[joint]!r} stands at {log.q[row, joint]:.4g}"
        if past.max() > math.pi / 2 and turning[joint] and (in_degrees[:, turning] <= _BEYOND).all():
            raise ValueError(f"{where}, its limits are {limits} rad; these are degrees: {remedy}")
        warnings.warn(f"{where}, past its limits {limits}; check units, zero and order of the joints", stacklevel=4)
    speed = log.qd.abs() * turning
    if (speed > _FASTEST).any():
        row, joint = divmod(int(speed.argmax()), len(arm.joints))
        raise ValueError(
            f"{name}, row {rows[row]}: joint {arm.joints[joint]!r} turns at {log.qd[row, joint]:.4g} rad/s, faster "
            f"than any arm; {remedy}, or check that t is in s"
        )


def check_velocities(name: str, arm: Arm, log: Log) -> None:
    """Raise where the velocities recorded are not how the positions recorded change."""
    steps = (log.qd[1:] + log.qd[:-1]) / 2 * torch.diff(log.t)[:, None]
    every = max(1, len(log.t) // _SPANS)  # from row to row, noise could hide the change
    change = torch.diff(log.q[::every], dim=0)  # (spans, n)
    stated = torch.diff(torch.cat((steps[:1] * 0, steps.cumsum(0)))[::every], dim=0)
    size, own = change.norm(dim=0), stated.norm(dim=0)
    for joint, name_of_joint in enumerate(arm.joints):
        if size[joint] < _STILL * len(change) ** 0.5 or own[joint] == 0:
            continue
        alike = (change[:, joint] @ stated[:, joint] / (size[joint] * own[joint])).item()
        factor = (own[joint] / size[joint]).item()
        where = f"{name}: velocities and positions of joint {name_of_joint!r} contradict each other"
        if alike < -0.5:
            raise ValueError(f"{where}: qd has the sign opposite to q's change; turn the sign of one of them")
        if alike > 0.5 and not 0.5 < factor < 2:
            units = {_DEGREES: "degrees/s beside rad", 1 / _DEGREES: "rad/s beside degrees", 1e3: "t in ms"}
            guess = next((what for ratio, what in units.items() if 0.8 < factor / ratio < 1.25), "mixed units")
            raise ValueError(f"{where}: qd is {factor:.3g} times q's change; {guess}? Give rad, rad/s and s")


def check_torques(
    arm: Arm,
    logs: Sequence[Log],
    payloads: Sequence[Tensor],
    columns: ndarray,
    sign: ndarray,
    stated: Collection[str],
    settings: MountingTest = MountingTest(),  # noqa: B008
) -> None:
    """Raise where all logs together say that the arm hangs otherwise, a sign is wrong, or joints are confused.

    Gravity is tried before signs: of an arm hung from a ceiling, nearly all torques are opposite to an upright one's.

    Args:
        arm: the nominal arm.
        logs: of all trials.
        payloads: (10,) what each holds, as far as known.
        columns: (n,) position in the files of each of the arm's joints.
        sign: (n,) what the torques of each of them were multiplied by.
        stated: keys of robot.yaml that are given; what contradicts one of them is a warning.
    """
    every = -(-sum(len(log.t) for log in logs) // _ROWS)
    held = torch.cat([phi.expand(len(log.t[::every]), 10) for log, phi in zip(logs, payloads, strict=True)])
    rows = Log(*(torch.cat([x[::every] for x in parts]) for parts in zip(*logs, strict=True)))
    score = _agreement(_model(arm, rows, held), rows.tau).diagonal()
    fit = f"agreement {np.abs(score).mean():.2f}, where 1 is perfect"
    flipped = np.flatnonzero(score < _FLIPPED)
    explained = _explanations(arm, rows, held, flipped, sign, settings)
    hung = max((one.agreement for one in explained if one.tilted), default=-1.0)
    found = _order(arm, rows, held, _BETTER + _BETTER_OF_ONE / len(logs))
    if found is not None and found[2] > hung:
        what, joint_at, _ = found
        listed = ", ".join(arm.joints[joint] for joint in joint_at[np.argsort(columns)])
        remedy = f"; if they are recorded so, write joints: [{listed}] in robot.yaml"
        if what == "torques":
            remedy = ", the positions as stated; record both in one order"
        _doubt(
            f"the torques recorded do not fit the URDF ({fit}), but would fit better if the {what} in columns 1 to "
            f"{len(columns)} were those of {listed}{remedy}",
            "joints" in stated,
        )
        return
    if _check_mounting(arm, explained, flipped, columns, sign, stated, settings):
        return
    if np.abs(score).mean() < _ALIEN:
        length = explained[0].found.norm().item()
        bare = f" Least squares finds a gravity of {length:.2g} m/s^2 in them: was it subtracted? Record them whole."
        bare = bare * (length < settings.length * GRAVITY)
        warnings.warn(f"the torques recorded do not fit the URDF ({fit}); is it this arm's?{bare}", stacklevel=3)
    if len(flipped):
        wrong = ", ".join(arm.joints[joint] for joint in flipped)
        _doubt(
            f"the torques of {wrong} are opposite to what the URDF asks for (agreement {score[flipped].min():.2f}, "
            "where -1 is the exact opposite); tau is what the motors exert on the arm: turn the sign by torque_sign in "
            "robot.yaml, 1 or -1, or one for each column",
            "torque_sign" in stated,
        )


def _explanations(
    arm: Arm, rows: Log, held: Tensor, flipped: ndarray, sign: ndarray, settings: MountingTest
) -> list[Explanation]:
    """Signs and gravity as read first; then what else they could be, where the torques or robot.yaml raise doubts."""
    as_read = torch.ones(len(arm.joints), dtype=rows.q.dtype)
    found = [explain(arm.chain, rows, held, as_read, settings)]
    if found[0].tilted or len(flipped):
        found.append(explain(arm.chain, rows, held, -as_read, settings))
    elif (sign < 0).any():
        found.append(explain(arm.chain, rows, held, torch.from_numpy(sign), settings))
    if len(flipped):
        turned = as_read.clone()
        turned[flipped] = -1
        found.append(explain(arm.chain, rows, held, turned, settings._replace(squares=0.0)))  # gravity as stated
    return found


def _check_mounting(
    arm: Arm,
    found: list[Explanation],
    flipped: ndarray,
    columns: ndarray,
    sign: ndarray,
    stated: Collection[str],
    settings: MountingTest,
) -> bool:
    """Whether another gravity explains the torques, having raised or warned."""
    least = max(one.agreement for one in found) - settings.tie
    hung = [one for one in found if one.tilted and one.agreement > least]
    if not hung:
        return False
    as_read, best = found[0], max(hung, key=lambda one: round(one.agreement, 2))
    signs = (sign * best.sign.numpy())[np.argsort(columns)].astype(int).tolist()
    signs = signs[0] if len(set(signs)) == 1 else signs
    write = f"gravity: {_shown(best.gravity)}" + f" and torque_sign: {signs}" * bool((best.sign < 0).any())
    what = (
        f"gravity pointing along {_shown(best.gravity)} in the axes of the URDF's base (least squares finds "
        f"{_shown(best.found)} m/s^2; mean agreement {best.agreement:.2f}, as stated {as_read.stated:.2f})"
    )
    if as_read.tilted or len(flipped):
        other = ""
        if len(flipped) and found[-1].agreement > least and settings.squares * found[-1].left < best.left:
            names = ", ".join(arm.joints[joint] for joint in flipped)
            other = f"; if it does not hang so, the torques of {names} have the wrong sign: turn it by torque_sign"
        problem = (
            f"the torques recorded fit the URDF with {what}; if the arm hangs so, write {write} in robot.yaml{other}"
        )
        _doubt(problem, "gravity" in stated)
        return True
    if not {"gravity", "torque_sign"} <= set(stated):
        warnings.warn(
            f"torque_sign in robot.yaml cannot be told from {what}: if the arm hangs so, write {write}; if not, write "
            f"gravity: {_shown(arm.chain.gravity)} beside torque_sign",
            stacklevel=4,
        )
    return False


def _shown(vector: Tensor) -> list[float]:
    return [round(x, 2) + 0.0 for x in vector.tolist()]


def _doubt(problem: str, stated: bool) -> None:
    if not stated:
        raise ValueError(problem)
    warnings.warn(f"{problem} (robot.yaml states it, so it stands)", stacklevel=4)


def _model(arm: Arm, rows: Log, held: Tensor) -> ndarray:
    return inverse_dynamics(arm.chain, rows.q, rows.qd, rows.qdd, held).numpy()


def _agreement(model: ndarray, tau: Tensor | ndarray) -> ndarray:
    """(n, n) of each torque with each joint's model, 2 a.b / (a.a + b.b): 1 if equal, -1 if opposite, 0 if unlike.

    Unlike a correlation it is small where one is much the larger, as on a wrist that carries more than its own weight:
    there the model says nothing of the sign.
    """
    tau = np.asarray(tau)
    sizes = (tau**2).sum(0)[:, None] + (model**2).sum(0)
    return 2 * tau.T @ model / np.maximum(sizes, 1e-12)


def _order(arm: Arm, rows: Log, held: Tensor, better: float) -> tuple[str, ndarray, float] | None:
    """What is out of order, the joint (n,) of each column, the agreement then; None if no order is clearly better."""
    model = _model(arm, rows, held)
    table = np.abs(_agreement(model, rows.tau))
    stated = table.diagonal().mean()
    columns = linear_sum_assignment(-table)[1]
    torques_only = table[np.arange(len(table)), columns].mean()
    swapped, both = _descend(arm, rows, held, stated)
    if max(torques_only, both) < max(stated + better, _FAIR):
        return None
    if both >= torques_only:
        return "positions and torques", np.argsort(swapped), float(both)
    return "torques", columns, float(torques_only)


def _descend(arm: Arm, rows: Log, held: Tensor, best: float) -> tuple[ndarray, float]:
    """The order of all columns found by swapping pairs as long as that helps, and its mean agreement."""
    columns = np.arange(len(arm.joints))
    while True:
        swaps = []
        for pair in combinations(range(len(columns)), 2):
            tried = columns.copy()
            tried[list(pair)] = tried[list(pair[::-1])]
            other = Log(rows.t, *(x[:, tried] for x in rows[1:]))
            score = np.abs(_agreement(_model(arm, other, held), other.tau).diagonal()).mean()
            swaps.append((score, tried))
        score, tried = max(swaps, key=lambda swap: swap[0], default=(best, columns))
        if score <= best + 1e-6:
            return columns, best
        best, columns = score, tried

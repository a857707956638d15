"""Many PyBullet trials at once in fresh worker processes, with the same numbers for any number of workers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from tqdm import tqdm

from simulators.arm import bullet

if TYPE_CHECKING:
    from simulators.arm.bullet import Log
    from simulators.arm.movement import Movement
    from simulators.arm.payload import Payload
    from simulators.arm.robot import Robot
    from simulators.arm.trials import Noise

_ATTEMPTS = 3

Job = tuple["Robot", "Payload", "Movement", ndarray, "Noise", int, int]
"""Robot, payload, movement, times, noise, seed and number of one trial."""


def run_trials(
    robot: Robot,
    payloads: Sequence[Payload],
    movements: Sequence[Movement],
    times: ndarray,
    noise: Noise,
    seed: int = 0,
    workers: int = 1,
) -> tuple[ndarray, ndarray, ndarray, ndarray, ndarray]:
    """Return t (trials, samples) and q, qd, qdd, tau, each (trials, samples, n), all measured (noise, gain, offset).

    A bar shows the progress on a terminal, once the work has taken two seconds. Where a worker process is killed, the
    trials that it lost are named in a warning and run again.

    Args:
        robot: the unit that moves.
        payloads: one a trial.
        movements: one a trial.
        times: (trials, samples) s, rising; the samples lie at the nearest time step, which the returned t says.
        noise: of the logs.
        seed: with the trial's number, of each trial's noise.
        workers: processes; 1 runs in this one.

    Raises:
        RuntimeError: the workers were killed three times in a row.
        ImportError: PyBullet (or joblib, for several workers) is not there.
    """
    jobs = [
        (robot, payload, movement, row, noise, seed, i)
        for i, (payload, movement, row) in enumerate(zip(payloads, movements, times, strict=True))
    ]
    logs: dict[int, Log] = {}
    with tqdm(total=len(jobs), desc="trials", delay=2.0, disable=None) as bar:
        if workers == 1:
            for job in jobs:
                logs[job[-1]] = _trial(job)
                bar.update()
        else:
            _share_out(jobs, workers, logs, bar)
    return tuple(np.stack(x) for x in zip(*(logs[i] for i in range(len(jobs))), strict=True))


def _trial(job: Job) -> Log:
    from simulators.arm.trials import noise_rng

    robot, payload, movement, times, noise, seed, i = job
    return bullet.run(robot, payload, movement, times, noise, noise_rng(seed, i))


def _share_out(jobs: list[Job], workers: int, logs: dict[int, Log], bar: tqdm) -> None:
    """Fill in the logs, in worker processes; begin again, without what is done, when one of them is killed."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    for _ in range(_ATTEMPTS):
        left = [job for job in jobs if job[-1] not in logs]
        with tempfile.TemporaryDirectory() as folder:
            parallel = Parallel(n_jobs=workers, batch_size=1, return_as="generator_unordered")
            try:
                for i, log in parallel(delayed(_noted)(job, folder) for job in left):
                    logs[i] = log
                    bar.update()
                return
            except BrokenProcessPool:
                begun = {int(path.name) for path in Path(folder).iterdir()}
        lost = ", ".join(str(i) for i in sorted(begun - set(logs))) or "none that had begun"
        warnings.warn(f"a worker process was killed; run again: trials {lost}", RuntimeWarning, stacklevel=4)
    raise RuntimeError(
        f"worker processes were killed {_ATTEMPTS} times (out of memory?), with {len(jobs) - len(logs)} of {len(jobs)} "
        "trials to go; take fewer workers"
    )


def _noted(job: Job, folder: str) -> tuple[int, Log]:
    """Return a trial's number and log; leave its number in the folder, in case the process does not live to the end."""
    (Path(folder) / str(job[-1])).touch()
    return job[-1], _trial(job)

"""Times of weighing and of inverse dynamics beside PyBullet's and Pinocchio's, and the memory of 10,000 resets."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from arm_problems import ARM, MOVEMENTS, SAMPLES, SMOKE, learn, prior, unit
from numpy import ndarray

from scimeta.domains.arm import inverse_dynamics, nominal, specialize, weigh_least_squares, weigh_map
from simulators import arm as sim

TRIALS = 50 if SMOKE else 1000
BATCHES = (200,) if SMOKE else (1000, 20_000)  # samples of inverse dynamics in one call
LOOP = 100 if SMOKE else 2000  # samples of the Python loops
ROUNDS = 2 if SMOKE else 15
RESETS = 200 if SMOKE else 10_000

Torques = Callable[[ndarray, ndarray, ndarray], object]
"""Positions, velocities, accelerations, each (samples, n) -> torques alike."""


def main(seed: int) -> None:
    weighing(seed)
    for batch in BATCHES:
        dynamics(batch)
    resets()


def weighing(seed: int) -> None:
    """Print the time of one batched call that weighs many trials."""
    one = unit("S1", 0, seed)
    work = {}
    for kind in MOVEMENTS:
        weigher = learn(one.past(kind, 20), kind, steps=2)
        log = one.new(kind, trials=TRIALS).log
        work[f"ours, {kind} movement, one step"] = lambda weigher=weigher, log=log: weigher.weigh(log)
    work["MAP, 10 unknowns"] = lambda: weigh_map(weigher.classical, log, prior())
    work["least squares, 10 unknowns"] = lambda: weigh_least_squares(nominal(ARM), log)
    print(f"\n{TRIALS} trials of {SAMPLES} samples weighed in one call, CPU ms a trial")
    for name, seconds in race(work).items():
        asked = "   asked: at most 1" if name.startswith("ours") else ""
        print(f"  {name:<34} {1e3 * seconds / TRIALS:8.3f}{asked}")


def dynamics(batch: int) -> None:
    """Print the time of inverse dynamics a sample, after a look at whether all agree."""
    rng = np.random.default_rng(0)
    motion = rng.uniform(-1.0, 1.0, (3, batch, len(ARM.joints)))
    given = torch.as_tensor(motion)
    chain = sim.read_chain("iiwa")
    rows: dict[str, tuple[Callable, int]] = {}
    loops = {"PyBullet, Python loop": pybullet_loop, "Pinocchio, Python loop": pinocchio_loop}
    for name, make in loops.items():
        try:
            loop = make()
        except ImportError as error:
            print(f"\n{name}: left out, {error.name} is not installed")
            continue
        rows[name] = (lambda loop=loop: loop(*motion[:, :LOOP])), min(LOOP, batch)
    rows["the simulator's, NumPy, one batch"] = (lambda: sim.inverse_dynamics(chain, *motion)), batch
    rows["ours, one batch"] = (lambda: inverse_dynamics(ARM.chain, *given)), batch
    ours = specialize(ARM.chain)
    rows["ours, specialised to the arm"] = (lambda: ours(*given)), batch
    if not SMOKE and (shutil.which("g++") or shutil.which("clang++")):
        compiled = specialize(ARM.chain, compile=True)
        rows["ours, specialised and compiled"] = (lambda: compiled(*given)), batch
    truth = inverse_dynamics(ARM.chain, *given).numpy()
    apart = {name: np.abs(np.asarray(work()) - truth[:count]).max() for name, (work, count) in rows.items()}
    times = race({name: work for name, (work, _) in rows.items()})
    per = {name: 1e6 * times[name] / count for name, (_, count) in rows.items()}
    print(f"\nInverse dynamics, float64, {batch} samples a call ({min(LOOP, batch)} in loops), CPU us a sample")
    print(f"  {'':<34} {'us':>8} {'PyBullet over it':>17} {'furthest from ours, Nm':>23}")
    for name, value in per.items():
        ratio = f"{per['PyBullet, Python loop'] / value:.1f}" if "PyBullet, Python loop" in per else ""
        asked = "   asked: 20 or more" if name.endswith("compiled") else ""
        print(f"  {name:<34} {value:8.3f} {ratio:>17} {apart[name]:>23.1e}{asked}", flush=True)


def pybullet_loop() -> Torques:
    import pybullet

    client = pybullet.connect(pybullet.DIRECT)
    pybullet.setGravity(0, 0, -9.81, physicsClientId=client)
    flags = pybullet.URDF_USE_INERTIA_FROM_FILE
    body = pybullet.loadURDF(str(sim.urdf("iiwa")), useFixedBase=True, flags=flags, physicsClientId=client)

    def torques(q: ndarray, qd: ndarray, qdd: ndarray) -> list:
        rows = zip(q.tolist(), qd.tolist(), qdd.tolist(), strict=True)
        return [pybullet.calculateInverseDynamics(body, *row, physicsClientId=client) for row in rows]

    return torques


def pinocchio_loop() -> Torques:
    import pinocchio

    model = pinocchio.buildModelFromUrdf(str(sim.urdf("iiwa")))
    data = model.createData()

    def torques(q: ndarray, qd: ndarray, qdd: ndarray) -> list:
        # rnea answers with a view of the same array every time.
        return [pinocchio.rnea(model, data, *row).copy() for row in zip(q, qd, qdd, strict=True)]

    return torques


def race(work: dict[str, Callable]) -> dict[str, float]:
    """Return each one's median CPU seconds; in every round all take a turn, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, one in work.items():
            begin = time.process_time()
            one()
            spent[name].append(time.process_time() - begin)
    return {name: median(seconds[1:]) for name, seconds in spent.items()}


def resets() -> None:
    """Print what memory the Gymnasium environment holds after few resets and after many."""
    try:
        from simulators.arm.env import ArmEnv

        env = ArmEnv("iiwa")
    except ImportError as error:
        print(f"\nResets: left out, {error.name} is not installed (the extra `sim`)")
        return
    if not Path("/proc/self/statm").exists():
        print("\nResets: left out, only Linux tells a process its memory here")
        return
    held, begin = {}, time.process_time()
    for number in range(1, RESETS + 1):
        env.reset(seed=number)
        if number in (RESETS // 10, RESETS // 2, RESETS):
            held[number] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    each = 1e3 * (time.process_time() - begin) / RESETS
    env.close()
    first, last = held[RESETS // 10], held[RESETS]
    print(f"\nResets of the environment, {each:.1f} ms each; MiB held after")
    print("  " + ", ".join(f"{number}: {value:.1f}" for number, value in held.items()) + f"; growth {last - first:.1f}")

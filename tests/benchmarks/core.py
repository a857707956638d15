"""One meta-step, ours beside the rivals: gradients in float64 first, then times, memory, growth, and accuracy.

    python tests/benchmarks/core.py [--threads 2] [--only gradients times memory growth sinusoids]
    python tests/benchmarks/core.py --only times --problem sine 256 1 --problem conv4 16 1

Problems as in ``core_problems``: sinusoids (MLP 1-40-40-1) and conv4 (5-way 1-shot), second-order MAML, Adam outside.
Every variant's meta-gradient is compared in float64 with a plain Python loop before it is timed. Times are medians of
interleaved rounds, CPU milliseconds of one thread, or wall milliseconds with ``--threads 2`` (for a quiet machine).
"JAX, all tasks at once" is vmap + grad + jit; "JAX, c of n" computes c tasks at a time, its fastest form on one thread.

Rivals that are not installed are named and left out. What worked here:

    pip install jax
    pip install higher --no-deps
    pip install "cython>=3" wheel requests && git clone https://github.com/learnables/learn2learn && cd learn2learn
    cython -3 learn2learn/data/*.pyx && pip install . --no-deps --no-build-isolation   # wants gym and torchvision

SCIMETA_SMOKE=1 shrinks the sizes and leaves the compiled variant out. On a machine with a CUDA device, ``--only gpu``
times the large batches there: sinusoids with 4,096 tasks and conv4 with 256.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import core_problems
import numpy as np
from core_problems import Problem

SMOKE = "SCIMETA_SMOKE" in os.environ
PARTS = ("gradients", "times", "memory", "growth", "sinusoids")
TIMED = [("sine", 4, 1)] if SMOKE else []
TIMED = TIMED or [("sine", 25, 1), ("sine", 25, 5), ("sine", 256, 1), ("sine", 256, 5)]
TIMED = TIMED if SMOKE else [*TIMED, ("conv4", 16, 1), ("conv4", 16, 5), ("conv4", 32, 5)]
CHECKED = [("sine", 4, 2)] if SMOKE else [("sine", 25, 1), ("sine", 25, 5), ("conv4", 3, 1), ("conv4", 3, 5)]
SECONDS = 0.2 if SMOKE else 5.0  # of rounds for each rival and problem, at least ROUNDS of them
ROUNDS = 2 if SMOKE else 5
MEMORY_STEPS, MEMORY_TASKS = ((1,), 2) if SMOKE else ((1, 5, 10), 16)
GROWTH = {
    "tasks": [(4, 1, 40)] if SMOKE else [(n, 1, 40) for n in (1, 4, 16, 64, 256, 1024)],
    "steps": [] if SMOKE else [(25, k, 40) for k in (1, 2, 5, 10, 20, 50)],
    "width": [] if SMOKE else [(25, 1, w) for w in (40, 80, 160, 320, 512)],
}


def problem(kind: str, tasks: int, steps: int, dtype: type = np.float32, width: int = core_problems.WIDTH) -> Problem:
    if kind == "sine":
        return core_problems.sine(tasks, steps, dtype, width=width)
    return core_problems.conv4(tasks, steps, dtype)


def contenders(problem: Problem) -> dict[str, Callable]:
    """Return name -> maker of a rival for the problem, the first of which the ratios are to."""
    from core_ours import our_rival
    from core_rivals import higher_rival, jax_rival, learn2learn_rival

    tasks = len(problem.support[0])
    makers = {
        "JAX, all tasks at once": lambda p: jax_rival(p, chunk=tasks),
        "JAX, fewer at once": jax_rival,
        "ours, compiled": lambda p: our_rival(p, "compiled"),
        "ours, recorded": lambda p: our_rival(p, "recorded"),
        "ours, eager": lambda p: our_rival(p, "eager"),
        "learn2learn": learn2learn_rival,
        "higher": higher_rival,
    }
    if SMOKE:  # compiling alone would take the minute
        del makers["ours, compiled"]
    if problem.kind == "conv4":
        makers["ours, recorded, half at once"] = lambda p: our_rival(p, "recorded", chunk_size=(tasks + 1) // 2)
    return makers


def built(problem: Problem) -> dict[str, object]:
    """Return name -> rival, after a word on those that are left out."""
    found = {}
    for name, make in contenders(problem).items():
        rival = make(problem)
        if isinstance(rival, str):
            if rival not in SAID:
                print(f"  {rival}")
                SAID.add(rival)
        elif not any(rival.name == other.name for other in found.values()):
            found[name] = rival
    return found


SAID: set[str] = set()


def gradients() -> None:
    """Print how far each variant's meta-gradient lies from the plain loop's, relative to its norm, in float64."""
    from core_ours import our_rival
    from core_rivals import plain_rival

    print("\nMeta-gradients in float64: relative distance from a plain Python loop")
    for kind, tasks, steps in CHECKED:
        given = problem(kind, tasks, steps, np.float64)
        truth = plain_rival(given).gradient()
        norm = sum((value**2).sum() for value in truth.values()) ** 0.5
        print(f"  {given.name}")
        rivals = built(given)
        rivals["adjoint"] = our_rival(given, "recorded", adjoint=True)
        for rival in rivals.values():
            found = rival.gradient()
            distance = sum(((found[name] - value) ** 2).sum() for name, value in truth.items()) ** 0.5 / norm
            print(f"    {rival.name:<36} {distance:.1e}{'' if distance < 1e-9 else '  WRONG'}")


def times(threads: int, problems: list[tuple[str, int, int]]) -> None:
    """Print the median times of one meta-step, interleaved, and their ratios to JAX's and to learn2learn's."""
    clock = time.process_time if threads == 1 else time.perf_counter
    kind_of_time = "CPU ms of one thread" if threads == 1 else f"wall ms on {threads} threads"
    print(f"\nOne meta-step, {kind_of_time}: median of interleaved rounds")
    for kind, tasks, steps in problems:
        given = problem(kind, int(tasks), int(steps))
        print(f"  {given.name}{'':<14} {'ms':>9} {'x JAX':>7} {'x l2l':>7} {'first call, s':>14}")
        rivals = built(given)
        first = {name: seconds_of(rival.step, time.perf_counter) for name, rival in rivals.items()}
        spent: dict[str, list[float]] = {name: [] for name in rivals}
        budget = SECONDS * len(rivals)
        start = time.perf_counter()
        while min(map(len, spent.values())) < ROUNDS or time.perf_counter() - start < budget:
            for name, rival in rivals.items():
                spent[name].append(seconds_of(rival.step, clock))
            if max(map(len, spent.values())) >= 200:
                break
        medians = {name: 1e3 * median(values) for name, values in spent.items()}
        for name, rival in rivals.items():
            ratios = [
                f"{medians[name] / medians[other]:7.3f}" if other in medians else f"{'':>7}"
                for other in ("JAX, all tasks at once", "learn2learn")
            ]
            print(f"    {rival.name:<36} {medians[name]:9.2f} {ratios[0]} {ratios[1]} {first[name]:14.1f}", flush=True)


def seconds_of(step: Callable[[], None], clock: Callable[[], float]) -> float:
    before = clock()
    step()
    return clock() - before


def memory_of(kind: str, tasks: int, steps: int, how: str, loop: str, width: int | None = None) -> str:
    """Return the peak memory of one variant, measured in a process of its own."""
    script = Path(__file__).with_name("core_ours.py")
    words = [kind, tasks, steps, how, loop, *([] if width is None else [width])]
    done = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"left out ({done.stderr.strip().splitlines()[-1][:60]})"


def memory() -> None:
    """Print the peak memory of conv4 over the loaded libraries."""
    print(f"\nPeak memory of three meta-steps, conv4, {MEMORY_TASKS} tasks, MiB over the loaded libraries")
    print(f"    {'inner steps':<36}" + "".join(f"{steps:>9}" for steps in MEMORY_STEPS))
    for name, how, loop in (
        ("learn2learn", "learn2learn", "-"),
        ("ours, eager (vmap + grad)", "eager", "unrolled"),
        ("ours, recorded, unrolled", "recorded", "unrolled"),
        ("ours, recorded, adjoint loop", "recorded", "adjoint"),
    ):
        row = [memory_of("conv4", MEMORY_TASKS, steps, how, loop) for steps in MEMORY_STEPS]
        print(f"    {name:<36}" + "".join(f"{value:>9}" for value in row), flush=True)


def growth() -> None:
    """Print how time and memory of our sinusoid meta-step grow with tasks, inner steps and width."""
    from core_ours import our_rival

    print("\nGrowth of our meta-step, sinusoids, recorded: CPU ms and peak MiB, unrolled / adjoint loop")
    for what, sizes in GROWTH.items():
        print(f"    {what:<8} {'ms':>18} {'first call, s':>16} {'MiB':>18}")
        for tasks, steps, width in sizes:
            given = problem("sine", tasks, steps, width=width)
            cells = []
            for loop in ("unrolled", "adjoint"):
                rival = our_rival(given, "recorded", adjoint=loop == "adjoint")
                first = seconds_of(rival.step, time.perf_counter)
                ms = 1e3 * median(seconds_of(rival.step, time.process_time) for _ in range(2 if SMOKE else 10))
                cells.append((f"{ms:.2f}", f"{first:.1f}", memory_of("sine", tasks, steps, "recorded", loop, width)))
            value = {"tasks": tasks, "steps": steps, "width": width}[what]
            ms, first, peak = (" / ".join(pair) for pair in zip(*cells, strict=True))
            print(f"    {value:<8} {ms:>18} {first:>16} {peak:>18}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "gpu"], default=PARTS)
    parser.add_argument("--problem", nargs=3, action="append", metavar=("KIND", "TASKS", "STEPS"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
    core_problems.limit_threads(args.threads)
    import core_sinusoids
    import torch

    torch.set_num_threads(args.threads)
    parts = {
        "gradients": gradients,
        "times": lambda: times(args.threads, args.problem or TIMED),
        "memory": memory,
        "growth": growth,
        "sinusoids": core_sinusoids.main,
        "gpu": gpu,
    }
    for name in args.only:
        parts[name]()


def gpu() -> None:
    """Print the wall time of large batches on a CUDA device, eager, recorded and compiled."""
    import torch
    from core_ours import our_rival

    if not torch.cuda.is_available():
        print("\nNo CUDA device here: the times on a GPU are left out")
        return
    print(f"\nOne meta-step on {torch.cuda.get_device_name()}, wall ms")
    for kind, tasks, steps in (("sine", 64, 1), ("conv4", 4, 1)) if SMOKE else (("sine", 4096, 1), ("conv4", 256, 1)):
        given = problem(kind, tasks, steps)
        for how in ("eager", "recorded", "compiled"):
            rival = our_rival(given, how, device="cuda")

            def step(rival: object = rival) -> None:
                rival.step()
                torch.cuda.synchronize()

            step()
            ms = 1e3 * median(seconds_of(step, time.perf_counter) for _ in range(10))
            print(f"    {given.name:<24} {rival.name:<28} {ms:9.2f}")


if __name__ == "__main__":
    main()

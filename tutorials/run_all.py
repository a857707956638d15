"""Run the tutorials at full size, one after the other: python tutorials/run_all.py [names] [--seed K].

Each runs in a process of its own, where warnings are errors and figures go to the tutorial's temporary folder. A line
says how long it took and whether its claims held; if not, the last line of its error. Exit status 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TUTORIALS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def chosen(names: list[str]) -> list[Path]:
    """Return the tutorials whose names begin with one of the given, all if none is given.

    Raises:
        SystemExit: a name that no tutorial begins with.
    """
    for name in names:
        if not any(path.name.startswith(name) for path in TUTORIALS):
            sys.exit(f"no tutorial is called {name}; there are {', '.join(path.stem for path in TUTORIALS)}")
    return [path for path in TUTORIALS if not names or path.name.startswith(tuple(names))]


def run(tutorial: Path, environment: dict[str, str]) -> bool:
    """Run one tutorial, print its line, and return whether its claims held."""
    print(f"{tutorial.stem:36}", end="", flush=True)
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(tutorial)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    print(f"{time.perf_counter() - begin:6.0f} s  {said[-1] if done.returncode else 'ok'}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tutorials at full size, one after the other.")
    parser.add_argument("names", nargs="*", help="the tutorials to run, by their first characters (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="SCIMETA_SEED, read by tutorials that draw (default 0)")
    arguments = parser.parse_args()
    # The scimeta beside the tutorials, installed or not, in its full size.
    paths = filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "MPLBACKEND": "Agg", "SCIMETA_SEED": str(arguments.seed)}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.pop("SCIMETA_SMOKE", None)
    held = [run(tutorial, environment) for tutorial in chosen(arguments.names)]
    print(f"{sum(held)} of {len(held)} tutorials hold their claims")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())

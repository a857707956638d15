"""Calibration from few points with a past: ours, the exact limit and the rivals, in one run and one default setting.

    python tests/benchmarks/calibration.py [--only one20 one8 two200 two20 outliers proportional combined hydride ...]
    python tests/benchmarks/calibration.py --only copper dsc theophylline sets --data FOLDER

FOLDER holds one folder a data set: cu_recrystallisation, polymer_dsc_isothermal, theophylline, orange_trees,
loblolly_pines, co2_uptake, chick_weight, dnase_elisa, puromycin. What is missing, NumPyro too, is named and left out.
Problems as told at the head of each ``calibration_*`` file. After the tables all that was asked is printed once more,
line by line. SCIMETA_SMOKE=1 shrinks the sizes, nothing else.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import calibration_batches
import calibration_design
import calibration_noise
import calibration_real
import calibration_simulated
import calibration_times
import torch
from calibration_problems import NOISES, ROWS, Asked, print_asked

REAL = {"dsc": calibration_real.dsc, "theophylline": calibration_real.subjects, "sets": calibration_real.sets}
BATCHES = {"hydride": calibration_batches.hydride, "copper": calibration_batches.copper}
NAMES = (*ROWS, *NOISES, *BATCHES, *REAL, "design", "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="the rows to print (default: all)")
    parser.add_argument("--data", type=Path, help="folder of the measured curves, for dsc, theophylline and sets")
    parser.add_argument("--seed", type=int, default=20261123, help="the first (default %(default)s)")
    parser.add_argument(
        "--seeds", type=int, help="how many of the simulated rows (default: 8; 3 with outliers or other noise)"
    )
    options = parser.parse_args()
    if options.data and not options.data.is_dir():
        parser.error(f"--data: expected a folder of folders; {options.data} is none")
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds: expected 1 or more; got {options.seeds}")
    torch.set_num_threads(1)
    # Fits that contradict the prior may not converge; their bands are withheld and scored as such.
    warnings.filterwarnings("ignore", message=".*did not converge")
    lines: list[Asked] = []
    for name in (name for name in NAMES if name in options.only):
        lines += measured(name, options)
    print_asked(lines)


def measured(name: str, options: argparse.Namespace) -> list[Asked]:
    """Print one row and return what was asked of it."""
    if name in ROWS:
        return calibration_simulated.main(name, options.seed, options.seeds)
    if name in NOISES:
        return calibration_noise.main(name, options.seed, options.seeds)
    if name == "design":
        return calibration_design.main(options.seed)
    if name == "times":
        return calibration_design.times(options.seed) + calibration_times.main(options.data, options.seed)
    if name in BATCHES:
        return BATCHES[name](options.data)
    if options.data is None:
        print(f"\n{name}: left out, it needs --data FOLDER")
        return []
    return REAL[name](options.data)


if __name__ == "__main__":
    main()

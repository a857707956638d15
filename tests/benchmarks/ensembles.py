"""Committees of models, ours beside scikit-learn's stacks: tables, subjects, experts, noise and a tale, in one run.

    python tests/benchmarks/ensembles.py [--only tables parkinsons experts everything friction canary tale backends]
    python tests/benchmarks/ensembles.py --only tables parkinsons --data FOLDER [--sets concrete] [--jobs 2]

FOLDER holds steel_strength.csv, energy.csv, concrete.csv and airfoil.csv (features first, target last; of
steel_strength the columns 2 to 14 and yield_strength) and parkinsons_updrs.csv; diabetes comes with scikit-learn. What
is missing, dask too, is named and left out. Problems as told at the head of each ``ensembles_*`` file. "asked" is what
the issue set as a target, or measured of the same rival when it was written ("was"); after the tables all that was
asked is printed once more, line by line. Golden numbers and scikit-learn's own checks are tests, in tests/ensembles.

A full run takes about half an hour on one core, a third of it the tables. SCIMETA_SMOKE=1 shrinks the sizes, and has
dask work in one thread instead of processes; nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ensembles_backends
import ensembles_canary
import ensembles_experts
import ensembles_tables
import ensembles_tale
import torch
from ensembles_problems import SETS, SMOKE, Asked, print_asked
from threadpoolctl import threadpool_limits

PARTS = ("tables", "parkinsons", "experts", "everything", "friction", "canary", "tale", "backends")
SEEDS = {"tables": 1, "experts": 10, "everything": 10, "friction": 10, "canary": 40, "tale": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to print (default: all)")
    parser.add_argument("--data", type=Path, help="folder of the CSV files, for tables and parkinsons")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="of tables (default: all)")
    each = ", ".join(f"{part} {number}" for part, number in SEEDS.items())
    parser.add_argument("--seeds", type=int, help=f"how many (default: {each})")
    parser.add_argument("--seed", type=int, default=0, help="the first of them (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="workers, for tables and parkinsons (default %(default)s)")
    options = parser.parse_args()
    if options.data and not options.data.is_dir():
        parser.error(f"--data: expected a folder of CSV files; {options.data} is none")
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds: expected 1 or more; got {options.seeds}")
    torch.set_num_threads(1)
    threadpool_limits(1)  # many small fits: sharing each among cores takes three times as long
    lines: list[Asked] = []
    for part in (part for part in PARTS if part in options.only):
        lines += measured(part, options)
    print_asked(lines)


def measured(part: str, options: argparse.Namespace) -> list[Asked]:
    """Print one part and return what was asked of it."""
    count = options.seeds or (1 if SMOKE else SEEDS.get(part, 1))
    seeds = range(options.seed, options.seed + count)
    match part:
        case "tables":
            return ensembles_tables.main(options.data, options.sets, seeds, options.jobs)
        case "parkinsons":
            return ensembles_tables.parkinsons(options.data, options.seed, options.jobs)
        case "canary":
            return ensembles_canary.main(seeds)
        case "tale":
            return ensembles_tale.main(seeds)
        case "backends":
            return ensembles_backends.main(options.seed)
    return ensembles_experts.main(part, seeds)


if __name__ == "__main__":
    main()

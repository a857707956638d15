"""The ``scimeta`` command: a thin layer over the functions that a script would call."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from scimeta import datasets
from scimeta.calibration.calibrator import Calibrator
from scimeta.calibration.curves import Curves
from scimeta.calibration.empirical_bayes import learn_prior
from scimeta.calibration.law import Law
from scimeta.calibration.prior import Prior, read_prior_file
from scimeta.calibration.tables import read_curves
from scimeta.domains import kinetics
from scimeta.files import write_atomically

LAWS = {name.lower().replace("_", "-"): law for name, law in vars(kinetics).items() if isinstance(law, Law)}

_LEARN_EXAMPLES = """examples:
  scimeta learn past.csv --law jmak --by alloy -o prior.json
  scimeta learn past.csv --law jmak --by alloy --conditions temperature -o prior.json --plot prior.png
  scimeta learn past.csv --law my_laws.py:release --x dose --y response -o prior.json
"""
_FIT_EXAMPLES = """examples:
  scimeta fit                                            the shipped example; writes fit.png
  scimeta fit prior.json new.csv
  scimeta fit prior.json new.csv --plot fit.png --csv fit.csv
  scimeta fit prior.json many.csv --by alloy --csv fits.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one sentence on the user's mistake."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"scimeta: warning: {message}", file=sys.stderr)
        warnings.simplefilter("always", UserWarning)
        try:
            options.run(options)
        except (ValueError, KeyError, TypeError, OSError) as error:
            sentence = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(f"scimeta: {sentence}", file=sys.stderr)
            return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scimeta", description="Learn from many past experiments how to calibrate the next."
    )
    commands = parser.add_subparsers(required=True, metavar="{learn,fit}")
    raw = argparse.RawDescriptionHelpFormatter

    learn = commands.add_parser(
        "learn", help="learn a prior from a table of past specimens", epilog=_LEARN_EXAMPLES, formatter_class=raw
    )
    learn.add_argument("csv", help="one row a measurement")
    learn.add_argument("--law", required=True, help=f"{', '.join(LAWS)}; or FILE.py:NAME for a law of your own")
    learn.add_argument("-o", "--output", required=True, metavar="PRIOR.json", help="where the prior goes")
    learn.add_argument("--plot", metavar="PNG", help="draw the population")
    _add_columns(learn)
    learn.set_defaults(run=_learn)

    fit = commands.add_parser(
        "fit", help="calibrate new specimens with a prior", epilog=_FIT_EXAMPLES, formatter_class=raw
    )
    fit.add_argument("prior", nargs="?", help="from scimeta learn; without arguments the shipped example runs")
    fit.add_argument("csv", nargs="?", help="the new specimens' points, one row a measurement")
    fit.add_argument("--law", help="FILE.py:NAME, where the prior is of a law of your own")
    fit.add_argument("--level", type=float, default=0.9, help="probability of the intervals (default 0.9)")
    fit.add_argument("--plot", metavar="PNG", help="draw points, curve and band")
    fit.add_argument("--csv", dest="table", metavar="OUT.csv", help="write the estimates, one row a specimen")
    _add_columns(fit)
    fit.set_defaults(run=_fit)
    return parser


def _add_columns(parser: argparse.ArgumentParser) -> None:
    columns = parser.add_argument_group("columns of the table")
    columns.add_argument("--x", help="abscissa (default: the name on the law's x, as time)")
    columns.add_argument("--y", help="ordinate (default: the name on the law's y, as fraction)")
    columns.add_argument("--by", help="specimen (default: 'specimen' if there, else the table is one specimen)")
    columns.add_argument("--sigma", help="standard deviation of each measurement")
    columns.add_argument("--conditions", default="", help="comma-separated, such as temperature,filler")
    columns.add_argument("--convert", action="store_true", help="convert units named in the header to the law's")


def _learn(options: argparse.Namespace) -> None:
    law = _law(options.law)
    conditions = _names(options.conditions)
    prior = learn_prior(law, _curves(options, law, conditions), conditions=conditions)
    prior.save(options.output)
    print(prior)
    print(f"\nwritten to {options.output}")
    if options.plot:
        _save_plot(prior, options.plot)


def _fit(options: argparse.Namespace) -> None:
    if options.prior is None:
        law, plot = kinetics.JMAK, options.plot or "fit.png"
        past, curves = datasets.alloys(), datasets.new_alloy()
        print(f"shipped example: {len(past)} past alloys, one new alloy with {len(curves[0])} points\n")
        prior = learn_prior(law, past)
    elif options.csv is None:
        raise ValueError(f"scimeta fit {options.prior} needs the CSV with the new specimens' points as well")
    else:
        law, plot = _law_of_prior(options), options.plot
        prior = Prior.load(options.prior, law)
        curves = _curves(options, law, tuple({*prior.conditions, *_names(options.conditions)}))
    fits = Calibrator(law, prior, options.level).fit_many(curves)
    result = fits[0] if len(fits) == 1 else fits
    print(result)
    if options.table:
        write_atomically(options.table, lambda path: fits.to_frame().to_csv(path, index=False))
        print(f"\nestimates: {options.table}")
    if plot:
        _save_plot(result, plot)


def _curves(options: argparse.Namespace, law: Law, conditions: Sequence[str]) -> Curves:
    """Return the table's curves, in the law's units where that was asked for."""
    columns = {"x": options.x or law.x.name, "y": options.y or law.y.name, "sigma": options.sigma}
    by = options.by or ("specimen" if _has_column(options.csv, "specimen") else None)
    curves = read_curves(options.csv, by=by, conditions=conditions, **columns)
    if not options.convert:
        return curves
    wanted = {side: getattr(law, side).unit or None for side in ("x", "y") if getattr(curves, side).unit}
    return curves.convert(**wanted)


def _has_column(path: str, name: str) -> bool:
    """Return whether the table's header names the column; False where there is no such file."""
    if not Path(path).is_file():
        return False
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip() and not line.startswith("#")), "")
    return name in [cell.strip().strip('"') for cell in header.replace(";", ",").replace("\t", ",").split(",")]


def _law(text: str) -> Law:
    """Return the law of a name in LAWS, or NAME from FILE.py, which is run as the user's own code."""
    if text.lower() in LAWS:
        return LAWS[text.lower()]
    file, colon, name = text.rpartition(":")
    if not colon:
        raise ValueError(f"no law {text!r}; there are {', '.join(LAWS)}, or FILE.py:NAME for a law of your own")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no file {file} to take the law {name} from")
    spec = importlib.util.spec_from_file_location("users_laws", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    law = getattr(module, name, None)
    if not isinstance(law, Law):
        laws = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise ValueError(f"{file} has no law {name!r}; it has {', '.join(laws) or 'none'}")
    return law


def _law_of_prior(options: argparse.Namespace) -> Law:
    """Return the law that was named, or the ready one that the prior file names."""
    if options.law:
        return _law(options.law)
    name = read_prior_file(options.prior)["law"].get("name")
    for law in LAWS.values():
        if law.name == name:
            return law
    raise ValueError(f"{options.prior} is of law {name!r}, which is none of scimeta's own; pass --law FILE.py:NAME")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _save_plot(result: object, path: str) -> None:
    """Write the picture whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = result.plot().figure
    if not Path(path).suffix:
        raise ValueError(f"--plot {path}: name a file type, as in {path}.png")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))
    plt.close(figure)
    print(f"figure: {path}")

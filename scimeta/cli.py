"""The ``scimeta`` command: a thin layer over the functions that a script would call."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scimeta.commands import arm, city, shipped_example
from scimeta.commands.outputs import check_outputs, picture, say, write, write_table

if TYPE_CHECKING:
    import numpy as np

    from scimeta.calibration.data.curves import Curves
    from scimeta.calibration.data.delimited import Table
    from scimeta.calibration.family.prior import Prior
    from scimeta.calibration.laws.law import Law

# Those of scimeta.domains.kinetics; named here, so that --help need not import it.
LAWS = (
    "austin-rickett", "gompertz", "jmak", "jmak-full", "jmak-incomplete", "jmak-incubation", "jmak-kt", "logistic",
)  # fmt: skip

_LEARN_EXAMPLES = """examples:
  scimeta learn past.csv --law jmak --by alloy -o prior.json
  scimeta learn past.csv --law jmak --by alloy --conditions temperature -o prior.json --plot prior.png
  scimeta learn past.csv --law jmak --by melt --conditions grade,1/temperature -o prior.json
  scimeta learn past.csv --law jmak --by run --groups batch -o prior.json
  scimeta learn past.csv --law my_laws.py:release --x dose --y response -o prior.json
"""
_FIT_EXAMPLES = """examples:
  scimeta fit                                            the shipped example; writes fit.png
  scimeta fit prior.json new.csv
  scimeta fit prior.json new.csv --plot fit.png --csv fit.csv
  scimeta fit prior.json many.csv --by alloy --csv fits.csv
"""
_NEXT_EXAMPLES = """examples:
  scimeta next prior.json new.csv
  scimeta next prior.json new.csv --candidates 50,100,200 --target k
  scimeta next prior.json new.csv --candidates 20:300:29 --target 250 --plot next.png
"""
_CANDIDATES = 60
_TYPE_INSTEAD = {  # what the functions advise -> what it is at the command line
    r'call curves\.convert\([xy]="[^"]*"\)( to have plain numbers)?': "pass --convert",
    r"ask for '([^']*)', then convert": r"ask for '\1' and pass --convert",
    r"pass replicates=True": "pass --replicates",
    r"pass by=None": "leave --by out",
    r"learn_prior\(\.\.\.\)\.save\(.*\)": "scimeta learn",
    r"learn_prior needs": "learning needs",
    r"learn_prior: (.*); raise steps or simplify": r"\1; simplify",
    **arm.TYPE_INSTEAD,
    **city.TYPE_INSTEAD,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one sentence on the user's mistake."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        warnings.simplefilter("always", UserWarning)
        try:
            options.run(options)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads standard output, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
        except (ValueError, KeyError, TypeError, OSError) as error:
            _say(error.args[0] if isinstance(error, KeyError) and error.args else error)
            return 2
    return 0


def _say(sentence: object) -> None:
    text = " ".join(str(sentence).split())
    for advice, typed in _TYPE_INSTEAD.items():
        text = re.sub(advice, typed, text)
    print(f"scimeta: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scimeta", description="Learn from many past experiments how to calibrate the next."
    )
    commands = parser.add_subparsers(required=True, metavar="{learn,fit,next,arm,city}")
    raw = argparse.RawDescriptionHelpFormatter

    learn = commands.add_parser(
        "learn", help="learn a prior from a table of past specimens", epilog=_LEARN_EXAMPLES, formatter_class=raw
    )
    learn.add_argument("csv", help="one row a measurement; -: standard input")
    learn.add_argument("--law", required=True, help=f"{', '.join(LAWS)}; or FILE.py:NAME for a law of your own")
    learn.add_argument("-o", "--output", required=True, metavar="PRIOR.json", help="where it goes; -: standard output")
    learn.add_argument("--plot", metavar="PNG", help="draw the population")
    learn.add_argument("--groups", metavar="COLUMN", help="what the specimens come in: batch, laboratory")
    learn.add_argument("--noise", default="auto", help="auto, constant, proportional, combined or power (of the mean)")
    _add_columns(learn)
    learn.set_defaults(run=_learn)

    fit = commands.add_parser(
        "fit", help="calibrate new specimens with a prior", epilog=_FIT_EXAMPLES, formatter_class=raw
    )
    fit.add_argument("prior", nargs="?", help="from scimeta learn; without arguments the shipped example runs")
    fit.add_argument("csv", nargs="?", help="the new specimens' points, one row a measurement; -: standard input")
    fit.add_argument("--law", help="FILE.py:NAME, where the prior is of a law of your own")
    fit.add_argument("--level", type=float, default=0.9, help="probability of the intervals (default 0.9)")
    fit.add_argument("--plot", metavar="PNG", help="draw points, curve and band")
    fit.add_argument(
        "--csv", dest="table", metavar="OUT.csv", help="the estimates, one row a specimen; -: standard output"
    )
    _add_columns(fit)
    fit.set_defaults(run=_fit)
    _add_next(commands, raw)
    arm.add_commands(commands)
    city.add_commands(commands)
    return parser


def _add_next(commands: argparse._SubParsersAction, formatter: type[argparse.HelpFormatter]) -> None:
    after = commands.add_parser(
        "next", help="say what to measure next of a new specimen", epilog=_NEXT_EXAMPLES, formatter_class=formatter
    )
    after.add_argument("prior", help="from scimeta learn")
    after.add_argument("csv", help="the new specimens' points so far, one row a measurement; -: standard input")
    where = f"in the unit of the law's x: 10,20,40 or FROM:TO:COUNT (default: {_CANDIDATES} over the range of the past)"
    after.add_argument("--candidates", metavar="LIST", help=f"where the next measurement could be, {where}")
    what = "a parameter's name, or the x at which the curve is to be known (default: all parameters)"
    after.add_argument("--target", help=f"what is to become certain: {what}")
    after.add_argument("--law", help="FILE.py:NAME, where the prior is of a law of your own")
    after.add_argument("--plot", metavar="PNG", help="draw the score of the candidates, of one specimen")
    after.add_argument(
        "--csv", dest="table", metavar="OUT.csv", help="the scores, one row a candidate; -: standard output"
    )
    _add_columns(after)
    after.set_defaults(run=_next)


def _add_columns(parser: argparse.ArgumentParser) -> None:
    columns = parser.add_argument_group("columns of the table")
    columns.add_argument("--x", help="abscissa (default: the name on the law's x, as time)")
    columns.add_argument("--y", help="ordinate (default: the name on the law's y, as fraction)")
    columns.add_argument("--by", help="specimen (default: 'specimen' if there, else the table is one specimen)")
    columns.add_argument("--sigma", help="standard deviation of each measurement")
    forms = "numbers, text or forms of numbers, such as temperature,grade or 1/temperature,log(dose)"
    columns.add_argument("--conditions", default="", help=f"comma-separated: {forms}")
    columns.add_argument("--convert", action="store_true", help="convert units named in the header to the law's")
    columns.add_argument("--replicates", action="store_true", help="readings at one x are independent, not a slip")


def _learn(options: argparse.Namespace) -> None:
    from scimeta.calibration.learning.learn_prior import learn_prior

    report = check_outputs([options.csv], prior=options.output, plot=options.plot)
    law = _law(options.law)
    conditions = _names(options.conditions)
    curves = _curves(options, law, (*conditions, *_names(options.groups or "")))
    if len(curves) == 1 and not options.by:
        raise ValueError(f"{options.csv} was read as one specimen; name the column of the specimens with --by")
    prior = learn_prior(law, curves, conditions=conditions, groups=options.groups, noise=options.noise)
    image = picture(prior.plot, options.plot)
    prior.save(options.output)
    say(f"{prior}\n\nwritten to {options.output}", report)
    write(options.plot, image, "figure", report)


def _fit(options: argparse.Namespace) -> None:
    from scimeta.calibration.family.prior import Prior
    from scimeta.calibration.fits.calibrator import Calibrator

    if options.prior is None:
        if options.law or options.x or options.y or options.by or options.sigma or options.conditions:
            raise ValueError("columns and laws need a table: scimeta fit PRIOR.json NEW.csv; alone it runs an example")
        options.plot = options.plot or "fit.png"
    elif options.csv is None:
        raise ValueError(f"fit takes a prior and a table, got only {options.prior}: scimeta fit PRIOR.json NEW.csv")
    report = check_outputs([options.prior, options.csv], [options.table], options.plot)
    if options.prior is None:
        fits, text, draw = shipped_example.example(options.level)
    else:
        law = _law_of_prior(options)
        prior = Prior.load(options.prior, law)
        curves = _curves(options, law, tuple(dict.fromkeys((*prior.conditions, *_names(options.conditions)))))
        fits = Calibrator(law, prior, options.level).fit_many(curves)
        result = fits[0] if len(fits) == 1 else fits
        text, draw = str(result), result.plot
    image = picture(draw, options.plot)
    say(text, report)
    write_table(options.table, fits.to_frame, "estimates", report)
    write(options.plot, image, "figure", report)


def _next(options: argparse.Namespace) -> None:
    from scimeta.calibration.family.prior import Prior
    from scimeta.calibration.fits.calibrator import Calibrator
    from scimeta.calibration.fits.next_measurement import best_candidates, candidate_scores

    report = check_outputs([options.prior, options.csv], [options.table], options.plot)
    law = _law_of_prior(options)
    prior = Prior.load(options.prior, law)
    candidates = _candidates(options.candidates, prior)
    curves = _curves(options, law, tuple(dict.fromkeys((*prior.conditions, *_names(options.conditions)))))
    if options.plot and len(curves) > 1:
        raise ValueError(f"--plot draws one specimen, {options.csv} has {len(curves)}; leave it out, or take --csv")
    target = options.target if options.target is None or options.target in law.parameters else _place(options.target)
    plans = []
    for fit in Calibrator(law, prior).fit_many(curves):
        try:
            plans.append(fit.next_measurement(candidates, target))
        except ValueError as error:
            if len(curves) == 1:
                raise
            warnings.warn(f"{fit.curve.name} is left out: {error}", stacklevel=2)
    if not plans:
        raise ValueError(f"no next measurement for any of the {len(curves)} specimens; see the warnings")
    image = picture(plans[0].plot, options.plot)
    say(
        plans[0]
        if len(curves) == 1
        else best_candidates(plans).to_string(index=False, float_format=lambda v: f"{v:.4g}"),
        report,
    )
    write_table(options.table, partial(candidate_scores, plans), "scores", report)
    write(options.plot, image, "figure", report)


def _candidates(text: str | None, prior: Prior) -> np.ndarray:
    """Return the candidates as typed, or evenly over the range of the past."""
    import numpy as np

    if text is None:
        if prior.learned is None:
            raise ValueError("the prior was set by hand and knows no range of x; pass --candidates, as in 20:300:29")
        first, last = prior.x_range
        return np.linspace(first, last, _CANDIDATES)
    parts = text.split(":")
    if len(parts) == 1:
        return np.array([_number(part) for part in _names(text)])
    if len(parts) != 3 or not parts[2].strip().isdigit() or int(parts[2]) < 1:
        raise ValueError(f"--candidates {text}: expected numbers as in 10,20,40, or FROM:TO:COUNT as in 20:300:29")
    first, last = (_number(part) for part in parts[:2])
    return np.linspace(first, last, int(parts[2]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--candidates: {text.strip()!r} is not a number") from None


def _place(target: str) -> float | str:
    """Return the x that the target names, or the text itself, of which the fit will say that it is no parameter."""
    try:
        return float(target)
    except ValueError:
        return target


def _curves(options: argparse.Namespace, law: Law, conditions: Sequence[str]) -> Curves:
    """Return the table's curves, in the law's units where that was asked for."""
    from scimeta.calibration.data.delimited import read_delimited
    from scimeta.calibration.data.tables import read_curves
    from scimeta.calibration.data.units import is_share
    from scimeta.calibration.family.conditions import column_of

    x, y = options.x or law.x.name, options.y or law.y.name
    table = read_delimited(options.csv)  # once: standard input is not there a second time
    columns = tuple(dict.fromkeys(column_of(name, table.header) for name in conditions))  # of 1/T that of T
    by = options.by or _specimens(table, (x, y, options.sigma, *columns))
    curves = read_curves(table, x=x, y=y, by=by, sigma=options.sigma, conditions=columns, replicates=options.replicates)
    if not options.convert:
        return curves
    wanted = {}
    for side in ("x", "y"):
        measured, goal = getattr(curves, side), getattr(law, side).unit
        if goal and not measured.unit:
            raise ValueError(
                f"--convert: column {measured.name!r} names no unit; state it, as in --{side} '{measured.name} [unit]'"
            )
        if goal or is_share(measured.unit):
            wanted[side] = goal
    return curves.convert(**wanted)


def _specimens(table: Table, used: Sequence[str | None]) -> str | None:
    """Return the column named specimen; None if there is none, with a warning if another column looks like it."""
    for name in table.header:
        if name.lower() == "specimen":
            return name
    for name, cells in zip(table.header, table.columns, strict=True):
        if name not in used and len(set(cells)) > 1 and any(cell[:1].isalpha() for cell in cells):
            doubt = f"all rows of {table.name} are read as one specimen; do you mean --by {name!r}?"
            warnings.warn(doubt, stacklevel=2)
            break
    return None


def _law(text: str) -> Law:
    """Return the law of a name in LAWS, or NAME from FILE.py, which is run as the user's own code."""
    from scimeta.calibration.laws.law import Law

    if text.lower() in LAWS:
        return _ready(text.lower())
    file, colon, name = text.rpartition(":")
    if not colon:
        raise ValueError(f"no law {text!r}; there are {', '.join(LAWS)}, or FILE.py:NAME for a law of your own")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no file {file} to take the law {name} from")
    spec = importlib.util.spec_from_file_location("users_laws", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file; the law is taken from FILE.py:NAME")
    module = sys.modules["users_laws"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code raises
        raise ValueError(f"{file} does not run: {type(error).__name__}: {error}") from error
    law = getattr(module, name, None)
    if not isinstance(law, Law):
        laws = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise ValueError(f"{file} has no law {name!r}; it has {', '.join(laws) or 'none'}")
    return law


def _law_of_prior(options: argparse.Namespace) -> Law:
    """Return the law that was named, or the ready one that the prior file names."""
    from scimeta.calibration.family.prior import read_prior_file

    if options.law:
        return _law(options.law)
    name = read_prior_file(options.prior)["law"].get("name")
    for law in map(_ready, LAWS):
        if law.name == name:
            return law
    raise ValueError(f"{options.prior} is of law {name!r}, which is none of scimeta's own; pass --law FILE.py:NAME")


def _ready(name: str) -> Law:
    """Return the law of a name in LAWS."""
    from scimeta.domains import kinetics

    return getattr(kinetics, name.upper().replace("-", "_"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())

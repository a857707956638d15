"""Digits to which least squares agrees with NIST's certified values and standard errors, from both of NIST's starts."""

from __future__ import annotations

import runpy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from scipy.optimize import curve_fit

from scimeta import LeastSquares
from scimeta.calibration.laws.law import Law

TEST = Path(__file__).resolve().parents[1] / "calibration" / "fits" / "test_least_squares.py"  # models, reader
MOST = 11.0  # digits that NIST certifies

Engine = Callable[[Law, ndarray, ndarray, ndarray], tuple[ndarray, ndarray, bool]]
"""Law, x, y, start -> values, standard errors, whether it says that it converged."""


def ours(law: Law, x: ndarray, y: ndarray, start: ndarray) -> tuple[ndarray, ndarray, bool]:
    """Return what our `LeastSquares` finds."""
    fit = LeastSquares(law).fit(x, y, start=dict(zip(law.names, start, strict=True)))
    return *(np.array([getattr(fit[name], part) for name in law.names]) for part in ("value", "std")), fit.converged


def scipy_curve_fit(law: Law, x: ndarray, y: ndarray, start: ndarray) -> tuple[ndarray, ndarray, bool]:
    """Return what `scipy.optimize.curve_fit` finds as it comes, without bounds."""
    try:
        values, covariance = curve_fit(lambda x, *b: evaluate(law, x, b), x, y, start)
    except RuntimeError:  # how curve_fit says that it found nothing
        return np.full(len(start), np.nan), np.full(len(start), np.nan), False
    return values, np.sqrt(covariance.diagonal()), True


def lmfit_leastsq(law: Law, x: ndarray, y: ndarray, start: ndarray) -> tuple[ndarray, ndarray, bool]:
    """Return what `lmfit.minimize` finds as it comes."""
    import lmfit

    params = lmfit.create_params(**dict(zip(law.names, start, strict=True)))
    try:
        fit = lmfit.minimize(lambda p: evaluate(law, x, [p[name].value for name in law.names]) - y, params)
    except ValueError:  # how lmfit says that the residuals became nan
        return np.full(len(start), np.nan), np.full(len(start), np.nan), False
    errors = [np.nan if fit.params[name].stderr is None else fit.params[name].stderr for name in law.names]
    return np.array([fit.params[name].value for name in law.names]), np.array(errors), bool(fit.success)


def evaluate(law: Law, x: ndarray, values: ndarray) -> ndarray:
    """Return the law's curve as an array."""
    return law.fn(torch.from_numpy(x), *torch.tensor(values, dtype=torch.float64)).numpy()


def digits(found: ndarray, certified: ndarray) -> float:
    """Return -log10 of the largest relative error, between 0 and 11; 0 for nan."""
    error = np.max(np.abs(found - certified) / np.abs(certified))
    return float(np.clip(-np.log10(max(error, 10**-MOST)), 0, MOST)) if np.isfinite(error) else 0.0


def print_table() -> None:
    """Print a row for each problem: value / standard error digits from start 1 and start 2 of each engine."""
    shared = runpy.run_path(str(TEST))
    engines: dict[str, Engine] = {"ours": ours, "curve_fit": scipy_curve_fit, "lmfit": lmfit_leastsq}
    try:
        import lmfit  # noqa: F401
    except ImportError:
        print("lmfit: left out, not installed")
        del engines["lmfit"]
    print("\nNIST StRD: digits of the worst value / standard error from start 1 and start 2; ! says: not converged")
    print(f"  {'':10s}" + "".join(f"{name:>26s}" for name in engines))
    for path in sorted(shared["NIST"].glob("*.dat")):
        if path.stem not in shared["MODELS"]:
            print(f"  {path.stem}: no model in {TEST.name}, left out")
            continue
        problem = shared["certified"](path.stem)
        row = ""
        for engine in engines.values():
            for start in problem.starts:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    values, errors, converged = engine(problem.law, problem.x, problem.y, start)
                cell = f"{digits(values, problem.values):.1f}/{digits(errors, problem.errors):.1f}"
                row += f"{cell + ('' if converged else '!'):>13s}"
        print(f"  {path.stem:10s}{row}", flush=True)
    print("  Lanczos1 is free of noise (residual 1e-13 of the data): its certified standard errors are rounding.")

"""Learn from many past experiments how to calibrate the next one from a handful of points."""

from scimeta import datasets
from scimeta.calibration.calibrator import Calibrator
from scimeta.calibration.classical import LeastSquares
from scimeta.calibration.curves import Curve, Curves
from scimeta.calibration.empirical_bayes import learn_prior
from scimeta.calibration.intervals import Band, Estimate
from scimeta.calibration.law import Axis, Law, Parameter
from scimeta.calibration.prior import Prior
from scimeta.calibration.result import Calibration, Calibrations
from scimeta.calibration.tables import read_curves
from scimeta.core.inner_loop import adapt, gauss_newton
from scimeta.core.rules import Meta, Rule, learned_rates, sgd
from scimeta.core.tasks import Task, over_tasks

__all__ = [
    "Axis",
    "Band",
    "Calibration",
    "Calibrations",
    "Calibrator",
    "Curve",
    "Curves",
    "Estimate",
    "Law",
    "LeastSquares",
    "Meta",
    "Parameter",
    "Prior",
    "Rule",
    "Task",
    "adapt",
    "datasets",
    "gauss_newton",
    "learn_prior",
    "learned_rates",
    "over_tasks",
    "read_curves",
    "sgd",
]

"""Learn from many past experiments how to calibrate the next one from a handful of points."""

from scimeta import datasets, laws
from scimeta.calibration.compare import Comparison, compare
from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.tables import read_curves
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.intervals import Band, Estimate
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.core.check import check_meta_gradient
from scimeta.core.checkpoint import load_meta
from scimeta.core.inner_loop import adapt, gauss_newton
from scimeta.core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.rule_learners import evolved_optimizer, learned_optimizer
from scimeta.core.rules import Meta, Rule, learned_rates, sgd
from scimeta.core.tasks import Stream, Task, draw_from, over_tasks
from scimeta.core.train import meta_train
from scimeta.core.trained import Trained, evaluate
from scimeta.models.functional import functional

__all__ = [
    "Axis",
    "Band",
    "Calibration",
    "Calibrations",
    "Calibrator",
    "Comparison",
    "Curve",
    "Curves",
    "Estimate",
    "Law",
    "LeastSquares",
    "Meta",
    "MetaLearner",
    "Parameter",
    "Prior",
    "Rule",
    "Stream",
    "Task",
    "Trained",
    "adapt",
    "anil",
    "check_meta_gradient",
    "compare",
    "datasets",
    "draw_from",
    "evaluate",
    "evolved_optimizer",
    "fomaml",
    "functional",
    "gauss_newton",
    "imaml",
    "laws",
    "learn_prior",
    "learned_optimizer",
    "learned_rates",
    "load_meta",
    "maml",
    "maml_plus_plus",
    "meta_sgd",
    "meta_train",
    "over_tasks",
    "read_curves",
    "reptile",
    "sgd",
]

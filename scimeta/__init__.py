"""Learn from many past experiments how to calibrate the next one from a handful of points."""

from scimeta import datasets
from scimeta.calibration import laws
from scimeta.calibration.calibrator import Calibrator
from scimeta.calibration.classical import LeastSquares
from scimeta.calibration.compare import Comparison, compare
from scimeta.calibration.curves import Curve, Curves
from scimeta.calibration.empirical_bayes import learn_prior
from scimeta.calibration.intervals import Band, Estimate
from scimeta.calibration.law import Axis, Law, Parameter
from scimeta.calibration.prior import Prior
from scimeta.calibration.result import Calibration, Calibrations
from scimeta.calibration.tables import read_curves
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

from . import calibration as calibration
from . import core as core
from . import datasets
from . import files as files
from . import laws as laws
from . import models as models
from .calibration.comparison import Comparison, compare
from .calibration.data.axis import Axis
from .calibration.data.curves import Curve, Curves
from .calibration.data.tables import read_curves
from .calibration.family.prior import Prior
from .calibration.fits.calibration import Calibration, Calibrations
from .calibration.fits.calibrator import Calibrator
from .calibration.fits.least_squares import LeastSquares
from .calibration.intervals import Band, Estimate
from .calibration.laws.law import Law, Parameter
from .calibration.learning.learn_prior import learn_prior
from .core.check import check_meta_gradient
from .core.checkpoint import load_meta
from .core.inner_loop import adapt, gauss_newton
from .core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from .core.rule_learners import evolved_optimizer, learned_optimizer
from .core.rules import Meta, Rule, learned_rates, sgd
from .core.tasks import Stream, Task, draw_from, over_tasks
from .core.train import meta_train
from .core.trained import Trained, evaluate
from .models.functional import functional

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

from . import laws as laws
from .comparison import Comparison, compare
from .data.axis import Axis
from .data.curves import Curve, Curves
from .data.tables import read_curves
from .family.prior import Prior
from .fits.calibration import Calibration, Calibrations
from .fits.calibrator import Calibrator
from .fits.least_squares import LeastSquares
from .intervals import Band, Estimate
from .laws.law import Law, Parameter
from .learning.learn_prior import learn_prior
from .regressor import LawRegressor

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
    "LawRegressor",
    "LeastSquares",
    "Parameter",
    "Prior",
    "compare",
    "laws",
    "learn_prior",
    "read_curves",
]

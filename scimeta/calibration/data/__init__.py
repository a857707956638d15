"""Measured curves and the tables they come from."""

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.tables import read_curves

__all__ = ["Axis", "Curve", "Curves", "read_curves"]

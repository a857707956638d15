"""Fits of new specimens, with a prior or by least squares, and what they return."""

from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.fits.membership import Membership
from scimeta.calibration.fits.next_measurement import NextMeasurement

__all__ = ["Calibration", "Calibrations", "Calibrator", "LeastSquares", "Membership", "NextMeasurement"]

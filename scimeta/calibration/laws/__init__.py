"""Laws: pure functions whose parameters have names, units and supports."""

from scimeta.calibration.laws.law import Law, Parameter

__all__ = ["Law", "Parameter"]

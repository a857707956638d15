"""Laws: pure functions whose parameters have names, units and supports, and those that are ready to use."""

from scimeta.calibration.laws import ready
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.laws.ready import *  # noqa: F403

__all__ = ["Law", "Parameter", *ready.__all__]

"""The posterior of each specimen's parameters."""

from scimeta.calibration.posterior.posterior import Posterior, posterior

__all__ = ["Posterior", "posterior"]

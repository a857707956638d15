"""Learning a prior from past specimens."""

from scimeta.calibration.learning.learn_prior import learn_prior

__all__ = ["learn_prior"]

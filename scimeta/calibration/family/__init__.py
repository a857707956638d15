"""What is believed of a family of specimens."""

from scimeta.calibration.family.prior import Prior, read_prior_file

__all__ = ["Prior", "read_prior_file"]

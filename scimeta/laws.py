"""Laws that are ready to use; see :mod:`scimeta.calibration.laws.ready`."""

from scimeta.calibration.laws.ready import *  # noqa: F403
from scimeta.calibration.laws.ready import __all__ as __all__

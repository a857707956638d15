"""Classical laws and their calibration: curves, priors learned from past specimens, fits with intervals.

Rooms, top floor last: data, laws, family, posterior, learning, fits; beside them the comparison of laws and a
scikit-learn estimator.
"""

import lazy_loader

# Names and where they are from stand in __init__.pyi; each is imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

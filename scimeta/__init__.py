"""Learn from many past experiments how to calibrate the next one from a handful of points."""

import lazy_loader

# Names and where they are from stand in __init__.pyi; each is imported when it is first asked for.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name not in ("calibration", "core", "files", "models")]  # packages, for no star

"""The meta-optimisation core: tasks, update rules, inner loops. It never learns what the numbers mean."""

import pkgutil

import lazy_loader

# Modules are imported when they are first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [module.name for module in pkgutil.iter_modules(__path__)])

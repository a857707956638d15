"""Networks as pure functions of their parameters. It knows nothing of tasks or of meta-learning."""

import pkgutil

import lazy_loader

# Modules are imported when they are first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [module.name for module in pkgutil.iter_modules(__path__)])

"""Synthesizers: models that draw images, trained here or elsewhere."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["gates"])

"""Augment whole batches, mix in synthetic images drawn live, and keep every promise a loader makes."""

import lazy_loader

# Names are imported when they are first asked for: all at once, they cost a quarter of what importing PyTorch does.
# Which there are, and where, is in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

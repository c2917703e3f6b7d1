"""Residual networks whose depth is chosen at run time.

`__init__.pyi` lists the public names, in the order of the pipeline. A name is imported when it is used for the first
time: values that need no torch, and the command line's help, do not wait for it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

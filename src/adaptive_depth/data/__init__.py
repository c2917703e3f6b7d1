"""Images and labels by name, and how they become the input of a network."""

from .configuring import (
    CHARACTERS,
    DataConfig,
    check_fit,
    check_input,
    class_names,
    configure,
    create_loader,
    input_shape,
    open_data,
)
from .sets import Digits

__all__ = [
    "CHARACTERS",
    "DataConfig",
    "Digits",
    "check_fit",
    "check_input",
    "class_names",
    "configure",
    "create_loader",
    "input_shape",
    "open_data",
]

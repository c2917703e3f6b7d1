"""Images and labels by name, and how they become a network's input."""

from .configuring import (
    CHARACTERS,
    DataConfig,
    check_fit,
    check_input,
    class_names,
    configure,
    create_loader,
    input_shape,
    notes_of,
    open_data,
)
from .sets import Digits, shown_in
from .wanted import arguments_for

__all__ = [
    "CHARACTERS",
    "DataConfig",
    "Digits",
    "arguments_for",
    "check_fit",
    "check_input",
    "class_names",
    "configure",
    "create_loader",
    "input_shape",
    "notes_of",
    "open_data",
    "shown_in",
]

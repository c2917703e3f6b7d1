"""A griffe extension: our docstrings head an example with `Example:`, griffe's with `Examples:`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Lets examples be rendered as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object that was read from the sources."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

"""Plain values as JSON and back: what is read is checked against the fields of its class, by pydantic, before use."""

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Self, get_args, get_type_hints

from .errors import AdaptiveDepthError


class Plain:
    """Base of frozen dataclasses that survive JSON.

    Class attributes:
        reading_error: the error of a content that does not fit.
    """

    reading_error: ClassVar[type[AdaptiveDepthError]] = AdaptiveDepthError
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def to_json(self) -> Any:
        """Dictionaries, lists, strings, numbers and None only, as `from_json` reads them."""
        return to_plain(self)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The inverse of `to_json`.

        Raises:
            AdaptiveDepthError: the class's own kind of it, for a field that is unknown, missing or of another type.
        """
        return from_plain(cls, content, cls.reading_error)


def to_plain(value: Any) -> Any:
    """A value of dataclasses, mappings and sequences as what JSON knows; the keys of mappings become strings."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    return [to_plain(each) for each in value] if isinstance(value, list | tuple) else value


def from_plain(kind: Any, content: Any, error: type[AdaptiveDepthError], name: str = "") -> Any:
    """The inverse of `to_plain`, into a dataclass or another type that pydantic knows.

    Arguments:
        kind: what to make; dataclasses inside are made, too.
        content: what was read. Nothing in it is executed.
        error: what to raise.
        name: of the content, for the error; by default that of the class.

    Raises:
        error: the first thing that does not fit, with its place, and the fields that are expected.
    """
    from pydantic import ValidationError

    try:
        # As JSON and strictly: "3" is no number there, and a list may become a tuple.
        return _adapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as found:
        first = found.errors()[0]
        raised = first.get("ctx", {}).get("error")
        if isinstance(raised, AdaptiveDepthError):  # a class of ours said what is wrong with its values
            raise (raised if isinstance(raised, error) else error(str(raised))) from found
        place = ".".join(str(part) for part in first["loc"])
        called = name or re.sub("(?<=[a-z])(?=[A-Z])", " ", getattr(kind, "__name__", "content")).lower()
        raise error(
            f"{called} {textwrap.shorten(repr(content), 200)}: {f'{place}: ' * bool(place)}{first['msg']}"
            f"{_expected(kind)}"
        ) from found
    except (RecursionError, TypeError, ValueError) as found:
        raise error(f"{name or 'the content'} is no JSON ({found}): expected what to_json gave") from found


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _expected(kind: Any) -> str:
    """The fields of a class, and of those inside it."""
    classes = list(dict.fromkeys(_classes(kind)))
    if not classes:
        return ""
    first, *inside = [", ".join(field.name for field in fields(each)) for each in classes]
    more = "; ".join(f"{each.__name__}: {names}" for each, names in zip(classes[1:], inside, strict=True))
    return f"; expected {'an object' if is_dataclass(kind) else 'objects'} with {first}{f' ({more})' * bool(more)}"


def _classes(kind: Any) -> list[Any]:
    """The dataclasses in a type, outer ones first."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return [kind, *(each for field in fields(kind) for each in _classes(hints[field.name]))]
    return [each for inner in get_args(kind) for each in _classes(inner)]

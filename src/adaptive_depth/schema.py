"""Plain values as JSON and back: before use, pydantic checks what is read against the fields of its class.

Files are read only here (`read_json`, `read_yaml`): whatever is wrong raises one kind of error, in bounded time and
memory. What a number or a text may be is defined once, by the types of the fields (`Positive`, `Letters`).
"""

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_type_hints

from .errors import AdaptiveDepthError, one_line

MOST_BYTES = 1 << 24  # of a description: a profile of 4,096 sub-networks takes less
_MOST_YAML = 1 << 17  # of a recipe: PyYAML reads slowly
_DEEPEST = 64  # levels of nesting
_MOST = 1 << 64  # of an integer: a seed may be this large


# -- valid values -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Such:
    """A condition on the values of a field beyond their type; pydantic checks it when a value is read.

    Attributes:
        fits: whether a value meets it: True, or anything truthy.
        expected: the same in words, for the error.
    """

    fits: Callable[[Any], object]
    expected: str

    def __repr__(self) -> str:  # shown by help() of whatever has such a field
        return f"Such({self.expected!r})"

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def checked(value: Any) -> Any:
            if not self.fits(value):
                raise PydanticCustomError("such", "{said}", {"said": f"Input should be {self.expected}"})
            return value

        return core_schema.no_info_after_validator_function(checked, handler(source))


# Bounds far beyond what can be measured, so that sums and products of what was read stay finite.
Number = Annotated[float, Such(lambda value: abs(value) < 1e15, "a number below 1e15 in magnitude")]
Positive = Annotated[float, Such(lambda value: 1e-15 < value < 1e15, "a number above 0, and below 1e15")]
NotNegative = Annotated[float, Such(lambda value: 0 <= value < 1e15, "a number of at least 0, and below 1e15")]
Percent = Annotated[float, Such(lambda value: 0 <= value <= 100.01, "percent, from 0 to 100")]
Part = Annotated[float, Such(lambda value: 0 <= value <= 1.01, "a number from 0 to 1")]
Cosine = Annotated[float, Such(lambda value: abs(value) <= 1.001, "a number from -1 to 1")]
Count = Annotated[int, Such(lambda value: 0 <= value < 1 << 53, "a whole number of at least 0, and below 2^53")]
Size = Annotated[int, Such(lambda value: 1 <= value < 1 << 53, "a whole number of at least 1, and below 2^53")]
Digest = Annotated[str, Such(lambda text: re.fullmatch("[0-9a-f]{64}", text), "64 hexadecimal digits")]
Checksum = Annotated[str, Such(lambda text: re.fullmatch("[0-9a-f]{8}", text), "8 hexadecimal digits")]
Text = Annotated[str, Such(bool, "a text that is not empty")]
FileName = Annotated[
    str, Such(lambda name: Path(name).name == name and "\0" not in name, "the name of a file in the same folder")
]
Letters = Annotated[
    str, Such(lambda value: re.fullmatch("[TF]{1,12}", value), "a skip: one letter per stage, T or F, such as 'TTFF'")
]


def one_of(*values: str) -> Such:
    """One of these words."""
    return Such(lambda value: value in values, f"one of {', '.join(values)}")


class Plain:
    """Base of frozen dataclasses that survive JSON.

    Class attributes:
        reading_error: the error for content that does not fit.
    """

    reading_error: ClassVar[type[AdaptiveDepthError]] = AdaptiveDepthError
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "arbitrary_types_allowed": True, "allow_inf_nan": False}

    def to_json(self) -> Any:
        """Dictionaries, lists, strings, numbers and None only, as `from_json` reads them."""
        return to_plain(self)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The inverse of `to_json`.

        Raises:
            AdaptiveDepthError: the class's `reading_error`, for a field that is unknown, missing, of another type, or
                out of range.
        """
        return from_plain(cls, content, cls.reading_error)


class Open(Plain):
    """The same with further entries allowed: the user's own, or those of a `Form` that is checked before."""

    __pydantic_config__: ClassVar[Any] = {**Plain.__pydantic_config__, "extra": "ignore"}


# -- files ------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, error: type[AdaptiveDepthError], fix: str, most: int = MOST_BYTES) -> bytes:
    """A file of bounded size.

    Raises:
        error: missing, unreadable, or larger than any that this library writes; ends with `fix`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError as missing:
        raise error(f"{path} does not exist: {fix}") from missing
    except (OSError, ValueError) as found:  # a name with a null byte is a ValueError
        raise error(f"{path} cannot be read ({one_line(found)}): {fix}") from found
    if len(content) > most:
        raise error(f"{path} has more than {most:,} bytes, too many for a file of its kind: {fix}")
    return content


def read_json(path: Path, error: type[AdaptiveDepthError], fix: str) -> Any:
    """The content of a JSON file: plain values with finite numbers and bounded nesting.

    Raises:
        error: as `read_bytes`, and for anything other than such JSON.
    """
    return parse_json(read_bytes(path, error, fix), error, str(path), fix)


def parse_json(content: str | bytes, error: type[AdaptiveDepthError], name: str, fix: str) -> Any:
    """The same for a text.

    Arguments:
        content: the text.
        error: what to raise.
        name: of the text, for the error.
        fix: how to fix a damaged one.
    """
    if len(content) > MOST_BYTES:
        raise error(f"{name} has more than {MOST_BYTES:,} bytes, too many for content of its kind: {fix}")
    try:
        found = json.loads(content, object_pairs_hook=_once_each)
    except (RecursionError, ValueError) as damaged:
        raise error(f"{name} cannot be read ({one_line(damaged)}): {fix}") from damaged
    return _checked(found, error, name, fix)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} twice, where one is expected")
    return found


def read_yaml(path: Path, error: type[AdaptiveDepthError], fix: str) -> Any:
    """The content of a YAML file, as `read_json`; without aliases, which can expand a short text into a huge one.

    Raises:
        error: as `read_bytes`, and for anything other than such YAML.
    """
    return parse_yaml(read_bytes(path, error, fix, _MOST_YAML), error, str(path), fix)


def parse_yaml(content: str | bytes, error: type[AdaptiveDepthError], name: str, fix: str) -> Any:
    """The same for a text; the arguments are those of `parse_json`."""
    try:
        found = _loaded_yaml(content)
    except Exception as damaged:  # PyYAML's constructors raise errors of many kinds
        raise error(f"{name} cannot be read ({one_line(damaged)}): {fix}") from damaged
    return _checked(found, error, name, fix)


def _loaded_yaml(content: str | bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"it has the alias *{self.peek_event().anchor}: expected the value itself")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value]
            if twice := next((name for name in names if isinstance(name, str) and names.count(name) > 1), None):
                raise yaml.YAMLError(f"it has {twice!r} twice, where one is expected")
            return super().construct_mapping(node, deep)

    return yaml.load(content, Loader)


def _checked(content: Any, error: type[AdaptiveDepthError], name: str, fix: str) -> Any:
    if wrong := _what_is_wrong(content):
        raise error(f"{name} holds {wrong}: {fix}")
    return content


def _what_is_wrong(content: Any) -> str | None:
    """Why content is not made of plain values, in words. Level by level: recursion would fail on deep nesting."""
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                if not all(isinstance(key, str | int) for key in value):
                    return "an entry whose name is not a text"
                inside += value.values()
            elif isinstance(value, list | tuple):
                inside += value
            elif isinstance(value, float) and not math.isfinite(value):
                return f"the number {value}, where finite numbers are expected"
            elif isinstance(value, int) and abs(value) >= _MOST:
                return "a whole number of more than 64 bits"
            elif not isinstance(value, str | int | float | None):
                return f"a {type(value).__name__}, where texts and numbers are expected"
        level = list({id(value): value for value in inside}.values())  # each once: a list may contain itself twice
        if not level:
            return None
    return f"values nested more than {_DEEPEST} levels deep"


# -- values -----------------------------------------------------------------------------------------------------


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON types; the keys of mappings become strings."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    return [to_plain(each) for each in value] if isinstance(value, list | tuple) else value


def from_plain(kind: Any, content: Any, error: type[AdaptiveDepthError], name: str = "") -> Any:
    """The inverse of `to_plain`, into a dataclass or another type that pydantic knows.

    Arguments:
        kind: what to make, with the dataclasses inside it.
        content: what was read. Nothing in it is executed.
        error: what to raise.
        name: of the content, for the error; by default that of the class.

    Raises:
        error: the first thing that does not fit, with its place, and the fields that are expected.
    """
    from pydantic import ValidationError

    called = name or re.sub("(?<=[a-z])(?=[A-Z])", " ", getattr(kind, "__name__", "content")).lower()
    _checked(content, error, called, "expected what to_json returned")
    try:
        # As JSON and strictly: "3" is no number there, and a list may become a tuple.
        return adapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as found:
        first = found.errors()[0]
        raised = first.get("ctx", {}).get("error")
        if isinstance(raised, AdaptiveDepthError):  # from our own class, which knows best what is wrong
            raise (raised if isinstance(raised, error) else error(str(raised))) from found
        place = ".".join(_SHORT.repr(part).strip("'") for part in first["loc"])
        told = place and first["type"] != "missing"
        received = f"; received {_SHORT.repr(first['input'])}" if told else ""
        raise error(
            f"{called} {_SHORT.repr(content)}: {f'{place}: ' * bool(place)}{first['msg']}{received}{_expected(kind)}"
        ) from found


_SHORT = reprlib.Repr()  # of a content that may be of any size
_SHORT.maxstring, _SHORT.maxdict, _SHORT.maxlevel = 80, 6, 2


@cache
def adapter(kind: Any) -> Any:
    """The pydantic adapter of a type; numbers must be finite."""
    from pydantic import TypeAdapter

    own = hasattr(kind, "__pydantic_config__")
    return TypeAdapter(kind) if own else TypeAdapter(kind, config={"allow_inf_nan": False})


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


@dataclass(frozen=True)
class Form:
    """The format name and version in a file of this library.

    Attributes:
        name: under `format`.
        version: the newest that is known; older ones from 1 on are read, too.
        what: the expected file, for the error.
        error: what to raise.
    """

    name: str
    version: int
    what: str
    error: type[AdaptiveDepthError]

    def check(self, content: Any, file: object) -> dict[str, Any]:
        """The content of a file, if it has this form.

        Raises:
            error: foreign, without a version, or newer.
        """
        if not isinstance(content, Mapping) or content.get("format") != self.name:
            raise self.error(f"{file} was not written by this library: expected {self.what}")
        version = content.get("version")
        if type(version) is not int or version < 1:
            raise self.error(f"{file} is damaged: its version is {version!r}, where a number is expected")
        if version > self.version:
            raise self.error(
                f"{file} has version {version!r}, but this library reads up to {self.version}: pip install -U "
                "adaptive-depth"
            )
        return dict(content)

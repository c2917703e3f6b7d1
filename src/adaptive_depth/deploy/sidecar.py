"""The description of an exported file as JSON beside it, for runtimes that cannot read the one inside.

`model.onnx.json` beside `model.onnx`, `artifact.json` in a folder: the file's description, and a checksum of each file
that belongs to it. Sessions of this library read the file itself; the JavaScript package and the C++ example read this.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError, one_line
from ..files import checksum
from ..schema import Checksum, Count, Plain, from_plain, read_json
from .artifact import FILE, FILES, Artifact

_MEND = "export the network again, or copy all files of the export again"


@dataclass(frozen=True)
class Written(Plain):
    """A file of an export: its size in bytes and its CRC-32 as eight hexadecimal digits."""

    reading_error = ArtifactError

    bytes: Count
    crc32: Checksum

    @classmethod
    def of(cls, file: Path) -> "Written":
        """The current state of a file."""
        return cls(file.stat().st_size, checksum(file))


def sidecar_of(path: Path) -> Path:
    """Where an export's description is: beside a file, or inside a folder.

    Example:
        >>> str(sidecar_of(Path("export/model.onnx")))
        'export/model.onnx.json'
    """
    return path / FILE if path.is_dir() else path.with_name(f"{path.name}.json")


def write_sidecar(path: Path, artifact: Artifact) -> None:
    """Describe a finished export, which must be alone in its folder.

    Arguments:
        path: its file or folder.
        artifact: its description.
    """
    place = sidecar_of(path)
    files = sorted(file for file in place.parent.rglob("*") if file.is_file() and file != place)
    written = {file.relative_to(place.parent).as_posix(): Written.of(file).to_json() for file in files}
    place.write_text(json.dumps({**artifact.to_json(), FILES: written}, indent=1) + "\n")


def read_sidecar(path: str | Path) -> Artifact:
    """An export's description, after checking that all its files are as they were written.

    Arguments:
        path: its file or folder, or the description itself; only that is read, and the files' checksums.

    Raises:
        ArtifactError: a description that is missing, damaged, newer than this library or of other files.

    Example:
        >>> read_sidecar("model.onnx").skips  # doctest: +SKIP
        ('FFFF', 'FFFT', 'FFTF', 'FFTT')
    """
    path = Path(path)
    if path.suffix == ".json":
        path = path.parent if path.name == FILE else path.with_suffix("")
    place = sidecar_of(path)
    plain = read_json(place, ArtifactError, _MEND)
    if not isinstance(plain, Mapping) or not plain.get(FILES):
        raise ArtifactError(f"{place} does not name the files it describes: it is damaged, or of another program")
    files = from_plain(dict[str, Written], plain[FILES], ArtifactError, f"{FILES} in {place}")
    artifact = Artifact.from_json(plain, place)
    if not path.is_dir() and path.name not in files:
        raise ArtifactError(f"{place} describes {', '.join(files)}, not {path.name}: {_MEND}")
    for name, told in files.items():
        _check(place.parent, name, told)
    return artifact


def _check(folder: Path, name: str, told: Written) -> None:
    parts = Path(name)
    # A description may come from a stranger, and must not point at other files.
    if parts.is_absolute() or ".." in parts.parts:
        raise ArtifactError(f"{folder} describes {name!r}: expected a file beside its description")
    try:
        found = Written.of(folder / parts)
    except OSError as error:
        raise ArtifactError(f"{folder / parts} cannot be read ({one_line(error)}): {_MEND}") from error
    if found != told:
        raise ArtifactError(
            f"{folder / parts} does not match its description ({found.bytes} bytes, checksum {found.crc32}; expected "
            f"{told.bytes} bytes, {told.crc32}): it is damaged, or of another export; {_MEND}"
        )

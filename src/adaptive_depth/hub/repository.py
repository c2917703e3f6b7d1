"""Networks in the conventions of the Hugging Face Hub: what the methods of `OnTheHub` do.

A folder holds `config.json` (what `save` calls network.json, the SHA-256 of the weights, and the preprocessing),
`model.safetensors` and `README.md`, the model card. As with `load`, nothing that is read can run code.

The Hub wants these names, so the weights cannot be named after their content. All files are complete before the
first is replaced; where a step fails, all are put back. A process that is killed between two steps leaves files that
do not belong together, which the SHA-256 tells.

huggingface_hub's ModelHubMixin is not the base of the methods, though they have its names and arguments: it fills the
arguments of the constructor from entries of config.json (`model` and `stages` are both, and not the same), and it
deletes config.json before it writes a new one.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from ..choose.tradeoffs import TradeOffs
from ..core.network import AdaptiveNetwork
from ..data import DataConfig, _transform
from ..errors import AdaptiveDepthError, CheckpointError, DataError, one_line
from ..files import move, temporary_file
from .card import card_metadata, changed_by_hand, model_card
from .checkpoint import describe, load, read_description, read_tensors, restore, temporary_tensors

CONFIG, WEIGHTS, CARD, RUN = "config.json", "model.safetensors", "README.md", "network.json"
_FETCHED = [CONFIG, WEIGHTS, RUN, "weights-*.safetensors"]
_READER = "AdaptiveNetwork.from_pretrained"
_INTERPOLATIONS = tuple(mode.value for mode in InterpolationMode)


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a network, and what its outputs mean: a plain value that survives JSON.

    Attributes:
        image_size: height and width in pixels after resizing.
        channels: 1 (grey) or 3 (colour); images are converted.
        mean, std: subtracted from, and divided out of, pixels between 0 and 1; one number a channel.
        interpolation: of the resizing, such as `"bicubic"` or `"bilinear"`.
        crop_pct: the part of a resized image's side that the central crop keeps.
        classes: the class names, in the order of the outputs; empty where they are not known.

    Raises:
        DataError: a value that is out of range.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size, per_channel = self.image_size, f"{self.channels} numbers, one a channel"
        for field, fits, expected in (
            ("image_size", type(size) is int and size > 0, "a number of pixels above 0, such as 224"),
            ("channels", type(self.channels) is int and self.channels in (1, 3), "1 (grey) or 3 (colour)"),
            ("mean", _are_numbers(self.mean, self.channels), per_channel),
            ("std", _are_numbers(self.std, self.channels) and all(self.std), f"{per_channel}, none of them 0"),
            ("interpolation", self.interpolation in _INTERPOLATIONS, f"one of {', '.join(_INTERPOLATIONS)}"),
            ("crop_pct", _is_number(self.crop_pct) and 0 < self.crop_pct <= 1, "a part, above 0 and at most 1"),
            ("classes", _is_list(self.classes) and all(isinstance(each, str) for each in self.classes), "names"),
        ):
            if not fits:
                raise DataError(f"preprocessing has {field}={getattr(self, field)!r}: expected {expected}")
        for field in ("mean", "std", "classes"):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @classmethod
    def of(cls, given: "Preprocessing | DataConfig | Mapping[str, Any]") -> "Preprocessing":
        """From a mapping with these fields; of a `DataConfig`, all but where its images are.

        Raises:
            DataError: something else, a field that is unknown, missing or out of range.
        """
        if isinstance(given, Preprocessing):
            return given
        if isinstance(given, DataConfig):
            given = {field.name: getattr(given, field.name) for field in fields(cls)}
        try:
            return cls(**given)
        except TypeError as error:
            raise DataError(
                f"preprocessing {given!r}: {error}; expected a mapping with {', '.join(cls.__dataclass_fields__)}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers only, as `of` reads them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def transform(self) -> Callable[[Any], Tensor]:
        """What turns a `PIL.Image` into an input `[channels, image_size, image_size]`.

        Example:
            >>> from PIL import Image
            >>> prepare = Preprocessing(image_size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3).transform()
            >>> prepare(Image.new("L", (60, 40))).shape
            torch.Size([3, 32, 32])
        """
        return _transform(DataConfig(name="", root=None, **asdict(self)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _is_list(values: object) -> bool:
    return isinstance(values, list | tuple)


def _are_numbers(values: Any, length: int) -> bool:
    return _is_list(values) and len(values) == length and all(map(_is_number, values))


# -- writing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A network, ready to be written: what could be wrong with it has been checked (`prepare`).

    Attributes:
        network: it stays as it is.
        config: the entries of config.json, without the SHA-256.
        tensors: each tensor once.
        metadata: of the card.
        preprocessing, tradeoffs: for the card; None where they are not known.
    """

    network: AdaptiveNetwork
    config: Mapping[str, Any]
    tensors: dict[str, Tensor]
    metadata: Mapping[str, Any]
    preprocessing: Preprocessing | None
    tradeoffs: TradeOffs | None

    def write(self, folder: Path, name: str) -> None:
        """Replace config.json, the weights and the card of a folder: all three or, where it fails, none.

        A card that somebody wrote or changed by hand stays.

        Arguments:
            folder: where to; it is made where it is missing.
            name: of the repository or folder, for the card.

        Raises:
            CheckpointError: the folder is a file, a run folder, or cannot be written.
        """
        if (folder / RUN).exists():
            raise CheckpointError(
                f"{folder} holds a network of save already ({RUN}): name another folder, so that each holds one network"
            )
        finished: dict[Path, Path] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            finished[folder / WEIGHTS], digest = temporary_tensors(self.tensors, folder)
            config = json.dumps({**self.config, "sha256": digest}, indent=2) + "\n"
            finished[folder / CONFIG] = temporary_file(folder / CONFIG, config.encode())
            if not changed_by_hand(folder / CARD):
                card = model_card(name, self.network, self.config, self.metadata, self.preprocessing, self.tradeoffs)
                finished[folder / CARD] = temporary_file(folder / CARD, card.encode())
            _replace_together(finished)
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error}): expected a folder with free space; what it held is still there"
            ) from error
        finally:
            for temporary in finished.values():
                temporary.unlink(missing_ok=True)


def prepare(
    network: AdaptiveNetwork,
    *,
    config: Any = None,
    tradeoffs: TradeOffs | None = None,
    preprocessing: Preprocessing | DataConfig | Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Share:
    """Check what is to be written, before anything is written; the arguments are those of `save_pretrained`.

    Raises:
        CheckpointError: arguments, entries or metadata that cannot be written, or trade-offs of another network.
        DataError: a preprocessing that is none.
    """
    description, tensors = describe(network, _READER)
    preprocessing = network.preprocessing if preprocessing is None else preprocessing
    prepared = None if preprocessing is None else Preprocessing.of(preprocessing)
    entries = description | {"weights": WEIGHTS, "preprocessing": None if prepared is None else prepared.to_json()}
    more = _further_entries(config, {*entries, "sha256"})
    if not isinstance(tradeoffs, TradeOffs | None):
        raise CheckpointError(
            f"tradeoffs is a {type(tradeoffs).__name__}: expected what the function tradeoffs returns"
        )
    if strange := [row.skip for row in tradeoffs.rows if row.skip not in network.skips] if tradeoffs else []:
        raise CheckpointError(
            f"the trade-offs are of another network: {', '.join(strange)} is none of its skips, {network.skips[0]} to "
            f"{network.skips[-1]}; evaluate and profile this one"
        )
    images = prepared is not None or tradeoffs is not None
    card = card_metadata(description["source"], images, {} if metadata is None else metadata)
    return Share(network, more | entries, tensors, card, prepared, tradeoffs)


def _further_entries(config: Any, own: set[str]) -> dict[str, Any]:
    """What the user adds to config.json: a mapping or a dataclass, as a dictionary."""
    given: Any = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    try:
        entries: dict[str, Any] = dict(given or {})
        json.dumps(entries)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"config={config!r} cannot be written as JSON ({error}): expected names, and values of plain kinds"
        ) from error
    if taken := sorted(own & set(entries)):
        raise CheckpointError(f"config has {', '.join(taken)}, which {CONFIG} holds already: expected other names")
    return entries


def _replace_together(finished: Mapping[Path, Path]) -> None:
    """Put finished temporary files in their places; where one step fails, every place holds what it held before."""
    kept = {path: path.with_name(f".{path.name}.before") for path in finished}
    there = {path for path in finished if path.exists()}
    for path in there:
        kept[path].unlink(missing_ok=True)  # of a process that was killed
    try:
        for path, temporary in finished.items():
            if path in there:
                path.replace(kept[path])
            move(temporary, path)
    except BaseException:
        for path, before in kept.items():
            if before.exists():
                before.replace(path)
            elif path not in there:
                path.unlink(missing_ok=True)
        raise
    for before in kept.values():
        before.unlink(missing_ok=True)


# -- reading ----------------------------------------------------------------------------------------------------


def read(given: str | os.PathLike[str], model: nn.Module | None = None, **options: Any) -> AdaptiveNetwork:
    """The network in a folder or repository, as `from_pretrained` returns it.

    Arguments:
        given: a folder, or the id of a repository.
        model: as for `load`.
        **options: of huggingface_hub's `snapshot_download`.

    Raises:
        CheckpointError: no network there, or one that is damaged.
    """
    folder = _find(given, options)
    has_config, has_run = (folder / CONFIG).is_file(), (folder / RUN).is_file()
    if has_config and has_run:
        raise CheckpointError(
            f"{folder} holds both {CONFIG} and {RUN}, of which one only can be its network: remove the older one, or "
            f"read {RUN} with load({str(folder)!r})"
        )
    if has_run:
        return load(folder, model)
    if not has_config:
        raise CheckpointError(
            f"{os.fspath(given)!r} holds no network, neither {CONFIG} nor {RUN}: expected what save_pretrained, "
            "push_to_hub or save wrote"
        )
    config = read_description(folder / CONFIG)
    sha256, preprocessing = config.get("sha256"), config.get("preprocessing")
    if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise CheckpointError(f"{folder / CONFIG} is damaged: its sha256 is {sha256!r}, where 64 digits are expected")
    try:
        prepared = None if preprocessing is None else Preprocessing.of(preprocessing)
    except DataError as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error}") from error
    tensors = read_tensors(folder / config["weights"], sha256)
    network = restore(config, tensors, folder / CONFIG, model, reader=_READER, given=os.fspath(given))
    network.preprocessing = prepared
    return network


def _find(given: object, options: Mapping[str, Any]) -> Path:
    """The folder that was named, or one with the files of the repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not isinstance(given, str | os.PathLike):
        raise CheckpointError(f"from_pretrained received a {type(given).__name__}: expected a folder or 'USER/NAME'")
    folder = Path(given).expanduser()
    if folder.is_dir():
        return folder
    try:
        validate_repo_id(given if isinstance(given, str) else "..")
    except HFValidationError as error:
        raise CheckpointError(
            f"{os.fspath(given)!r} is no folder, and no name of a repository: expected a folder that save_pretrained "
            "or save wrote, or 'USER/NAME' of the Hugging Face Hub"
        ) from error
    mend = "expected a folder, or a repository that this machine reaches and you may read (hf auth login, or token=)"
    with _one_error(f"{given!r} is no folder here, and cannot be fetched", mend):
        return Path(snapshot_download(str(given), allow_patterns=_FETCHED, **options))


# -- pushing ----------------------------------------------------------------------------------------------------


def upload(share: Share, repo_id: str, *, private: bool | None, token: str | bool | None, **options: Any) -> str:
    """Make the repository where it is missing, and put the files there in one commit.

    Arguments:
        share: what `prepare` returned.
        repo_id, private, token: as for `push_to_hub`.
        **options: of huggingface_hub's `upload_folder`.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    mend = "expected 'USER/NAME' of a repository that this machine reaches and you may write (hf auth login, or token=)"
    with _one_error(f"the network cannot be pushed to {repo_id!r}", mend), TemporaryDirectory() as folder:
        api = HfApi(token=token)
        full = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        share.write(Path(folder), full)
        return api.upload_folder(repo_id=full, repo_type="model", folder_path=folder, **options)


@contextmanager
def _one_error(what: str, mend: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line of this library."""
    try:
        yield
    except AdaptiveDepthError:
        raise
    except Exception as error:
        said = f"{type(error).__name__} of huggingface_hub: {one_line(error)}"
        raise CheckpointError(f"{what} ({said}); {mend}") from error

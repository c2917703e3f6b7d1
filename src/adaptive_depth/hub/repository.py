"""Networks in the conventions of the Hugging Face Hub: what the methods of `OnTheHub` do.

A folder contains `config.json` (what `save` calls network.json, plus the SHA-256 of the weights),
`model.safetensors` and `README.md`, the model card. As with `load`, nothing that is read can run code.

The Hub requires these names, so the weights cannot be named after their content. All files are complete before the
first is replaced; if a step fails, all are restored. A process that is killed between two steps leaves files that do
not belong together, which the SHA-256 reveals.

The methods do not inherit from huggingface_hub's ModelHubMixin, although they have its names and arguments: it fills
constructor arguments from entries of config.json (`model` and `stages` are both, with different meanings), and it
deletes config.json before it writes a new one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from ..choose.tradeoffs import TradeOffs
from ..errors import AdaptiveDepthError, CheckpointError, one_line
from ..files import draft, drafts, move, writing
from ..preprocessing import Preprocessing
from .card import card_metadata, changed_by_hand, model_card
from .folder import CONFIG, RUN, Kept, KeptNetwork, describe, draft_tensors, read_folder

WEIGHTS, CARD = "model.safetensors", "README.md"
_FETCHED = [CONFIG, WEIGHTS, RUN, "weights-*.safetensors"]
_READER = "AdaptiveNetwork.from_pretrained"


# -- writing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A network, checked and ready to be written (see `prepare`).

    Attributes:
        network: not changed.
        config: the entries of config.json, without the SHA-256.
        tensors: each tensor once.
        metadata: of the card.
        preprocessing, tradeoffs: for the card; None if unknown.
    """

    network: Kept
    config: Mapping[str, Any]
    tensors: dict[str, Tensor]
    metadata: Mapping[str, Any]
    preprocessing: Preprocessing | None
    tradeoffs: TradeOffs | None

    def write(self, folder: Path, name: str) -> None:
        """Replace config.json, the weights and the card of a folder: all three or, if it fails, none.

        A card that was written or changed by hand is kept.

        Arguments:
            folder: where to; created if missing.
            name: of the repository or folder, for the card.

        Raises:
            CheckpointError: the folder is a file, a run folder, or cannot be written.
        """
        if (folder / RUN).exists():
            raise CheckpointError(
                f"{folder} already contains a network written by save ({RUN}): name another folder, one per network"
            )
        try:
            with writing(folder, "save_pretrained", CheckpointError), drafts(folder) as place:
                digest = draft_tensors(self.tensors, place / WEIGHTS)
                finished = {folder / WEIGHTS: place / WEIGHTS}
                config = json.dumps({**self.config, "sha256": digest}, indent=2) + "\n"
                finished[folder / CONFIG] = draft(place / CONFIG, config.encode())
                if not changed_by_hand(folder / CARD):
                    parts = (self.network, self.config, self.metadata, self.preprocessing, self.tradeoffs)
                    finished[folder / CARD] = draft(place / CARD, model_card(name, *parts).encode())
                _replace_together(finished)
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error}): expected a folder with free space; its contents are unchanged"
            ) from error


def prepare(
    network: Kept,
    *,
    config: Any = None,
    tradeoffs: TradeOffs | None = None,
    preprocessing: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Share:
    """Check everything before anything is written; the arguments are those of `save_pretrained`.

    Raises:
        CheckpointError: arguments, entries or metadata that cannot be written, or trade-offs of another network.
        DataError: an invalid preprocessing.
    """
    description, tensors = describe(network, _READER)
    preprocessing = network.preprocessing if preprocessing is None else preprocessing
    prepared = None if preprocessing is None else Preprocessing.of(preprocessing)
    entries = description | {"weights": WEIGHTS, "preprocessing": None if prepared is None else prepared.to_json()}
    more = _further_entries(config, {*entries, "sha256"})
    if not isinstance(tradeoffs, TradeOffs | None):
        raise CheckpointError(
            f"tradeoffs is a {type(tradeoffs).__name__}: expected the result of the function tradeoffs"
        )
    if strange := [row.skip for row in tradeoffs.rows if row.skip not in network.skips] if tradeoffs else []:
        raise CheckpointError(
            f"the trade-offs are of another network: {', '.join(strange)} is not among its skips, {network.skips[0]} "
            f"to {network.skips[-1]}; evaluate and profile this one"
        )
    images = prepared is not None or tradeoffs is not None
    quality = None if tradeoffs is None else tradeoffs.quality
    card = card_metadata(description["source"], images, {} if metadata is None else metadata, quality)
    return Share(network, more | entries, tensors, card, prepared, tradeoffs)


def _further_entries(config: Any, own: set[str]) -> dict[str, Any]:
    """What the user adds to config.json: a mapping or a dataclass, as a dictionary."""
    given: Any = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    try:
        entries: dict[str, Any] = dict(given or {})
        json.dumps(entries)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"config={config!r} cannot be written as JSON ({error}): expected names and plain values"
        ) from error
    if taken := sorted(own & set(entries)):
        raise CheckpointError(f"config has {', '.join(taken)}, which {CONFIG} already contains: expected other names")
    return entries


def _replace_together(finished: Mapping[Path, Path]) -> None:
    """Move finished temporary files into place; if a step fails, every place is restored."""
    kept = {path: path.with_name(f".{path.name}.before") for path in finished}
    there = {path for path in finished if path.exists()}
    for path in there:
        kept[path].unlink(missing_ok=True)  # left by a process that was killed
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


def read(
    kind: type[KeptNetwork],
    given: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    another_class: bool = False,
    **options: Any,
) -> KeptNetwork:
    """The network in a folder or repository, as `from_pretrained` returns it.

    Arguments:
        kind: the class of the network.
        given: a folder, or the id of a repository.
        model, another_class: as for `load`.
        **options: of huggingface_hub's `snapshot_download`.

    Raises:
        CheckpointError: no network, or one that is damaged.
    """
    folder = _find(given, options)
    there = [name for name in (CONFIG, RUN) if (folder / name).is_file()]
    if len(there) == 2:
        raise CheckpointError(
            f"{folder} contains both {CONFIG} and {RUN}, but only one can be its network: remove the older one, or "
            f"read {RUN} with load({str(folder)!r})"
        )
    if not there:
        raise CheckpointError(
            f"{os.fspath(given)!r} contains no network, neither {CONFIG} nor {RUN}: expected what save_pretrained, "
            "push_to_hub or save wrote"
        )
    return read_folder(kind, folder, model, another_class=another_class, reader=_READER, given=os.fspath(given))


def _find(given: object, options: Mapping[str, Any]) -> Path:
    """The given folder, or one with the files of the repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not isinstance(given, str | os.PathLike):
        raise CheckpointError(f"from_pretrained received a {type(given).__name__}: expected a folder or 'USER/NAME'")
    folder = Path(given).expanduser()
    if folder.is_dir():
        return folder
    try:
        # A Path can only be a folder, so the invalid id ".." rejects it.
        validate_repo_id(given if isinstance(given, str) else "..")
    except HFValidationError as error:
        raise CheckpointError(
            f"{os.fspath(given)!r} is neither a folder nor the name of a repository: expected a folder that "
            "save_pretrained or save wrote, or 'USER/NAME' of the Hugging Face Hub"
        ) from error
    mend = "expected a folder, or a repository that this machine can reach and you may read (hf auth login, or token=)"
    with _one_error(f"{given!r} is not a folder here, and cannot be downloaded", mend):
        return Path(snapshot_download(str(given), allow_patterns=_FETCHED, **options))


# -- pushing ----------------------------------------------------------------------------------------------------


def upload(share: Share, repo_id: str, *, private: bool | None, token: str | bool | None, **options: Any) -> str:
    """Create the repository if it is missing, and upload the files in one commit.

    Arguments:
        share: what `prepare` returned.
        repo_id, private, token: as for `push_to_hub`.
        **options: of huggingface_hub's `upload_folder`.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: the Hub cannot be reached, or refuses the upload.
    """
    from huggingface_hub import HfApi

    mend = "expected 'USER/NAME' of a repository that you can reach and may write to (hf auth login, or token=)"
    with _one_error(f"the network cannot be pushed to {repo_id!r}", mend), TemporaryDirectory() as folder:
        api = HfApi(token=token)
        full = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        share.write(Path(folder), full)
        return api.upload_folder(repo_id=full, repo_type="model", folder_path=folder, **options)


@contextmanager
def _one_error(what: str, mend: str) -> Iterator[None]:
    """Turn any error of the Hub's client into one line of this library."""
    try:
        yield
    except AdaptiveDepthError:
        raise
    except Exception as error:
        said = f"{type(error).__name__} of huggingface_hub: {one_line(error)}"
        raise CheckpointError(f"{what} ({said}); {mend}") from error

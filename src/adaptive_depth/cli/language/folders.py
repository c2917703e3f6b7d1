"""Language models in folders: of transformers, or already adapted. Nothing is fetched, and no code of a folder runs."""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import CheckpointError, DataError, DepthsLeftOut, one_line
from ...schema import Digest, Letters, Number, Open, Size, Text, from_plain, read_bytes
from .. import runs, show
from ..reading import read_json

if TYPE_CHECKING:
    from torch import nn

    from ...core.network import AdaptiveNetwork

CONFIG, NETWORK = "config.json", runs.NETWORK
# Every folder with a tokenizer has one of these files.
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_ENCODER = "an encoder, whose tokens attend to later ones"

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that text train wrote.", show_default=False)]


@dataclass(frozen=True)
class About(Open):
    """The content of text.json: how the model in a folder was trained.

    Attributes:
        text: the file, as given.
        sha256: of that file.
        context: tokens per piece of text.
        held_out: tokens at the end of the text that were not trained on.
        before, after: perplexities on those by skip, before and after training.
    """

    reading_error = DataError

    text: Text
    sha256: Digest
    context: Size
    held_out: Size
    before: dict[Letters, Number] = field(default_factory=dict)
    after: dict[Letters, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A language model and its tokenizer.

    Attributes:
        model: of transformers, or an `AdaptiveNetwork` of one.
        tokenizer: of transformers.
    """

    model: Any
    tokenizer: Any

    @property
    def context(self) -> int | None:
        """The most tokens that the model takes; None if there is no limit."""
        return context_of(self.model)


def context_of(model: Any) -> int | None:
    from ... import hugging_face

    return hugging_face.context_of(model.model if is_adapted(model) else model)


def pick_context(asked: int | None, opened: Opened, usual: int = 256) -> int:
    """Tokens per piece of text.

    Raises:
        DataError: more than the model takes.
    """
    most = opened.context
    if asked is not None and most is not None and asked > most:
        raise DataError(f"--context {asked}: expected at most {most}, the context length of the model")
    return asked or min(usual, most or usual)


def is_adapted(model: Any) -> bool:
    from ...core.network import AdaptiveNetwork

    return isinstance(model, AdaptiveNetwork)


def read_about(folder: Path) -> About | None:
    """How the model in a folder was trained; None if the folder does not say.

    Raises:
        DataError: damaged.
    """
    path = folder / runs.TEXT
    if not path.exists():
        return None
    fix = "remove it, and give --context"
    try:
        return from_plain(About, read_json(path, fix), DataError)
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}): {fix}") from error


# -- opening a folder -------------------------------------------------------------------------------------------


def open_model(folder: Path) -> Opened:
    """A model of transformers, or an adapted network, with its tokenizer.

    Raises:
        CheckpointError: not a folder; or its model is missing, damaged, unknown to transformers, not a causal language
            model, or asks for custom code.
        DataError: no tokenizer, or one that does not fit.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder: expected one of transformers, with config.json, safetensors and a tokenizer; "
            "nothing is downloaded here: fetch a model first (hf download NAME --local-dir FOLDER), and give its folder"
        )
    with quiet():
        model = _network(folder) if _is_ours(folder) else _plain(folder)
        return Opened(model, _tokenizer(folder, model))


def has_tokenizer(folder: Path) -> bool:
    """Does this folder hold a tokenizer, and therefore a language model?"""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def open_network(folder: Path) -> Opened:
    """An adapted network with its tokenizer.

    Raises:
        CheckpointError, DataError: as `open_model`, or the model is not adapted yet.
    """
    if folder.is_dir() and not _is_ours(folder) and (folder / CONFIG).is_file():
        train = show.command("text", "train", folder, "TEXT", "--output", "NEW")
        raise CheckpointError(f"{folder} holds a model that is not adapted yet: adapt it with {train}")
    return open_model(folder)


def _is_ours(folder: Path) -> bool:
    if runs.is_run(folder):
        return True
    config = _config(folder) if (folder / CONFIG).is_file() else {}
    return "stages" in config and "model_type" not in config  # written by our save_pretrained, not by transformers'


def _network(folder: Path) -> "AdaptiveNetwork":
    from ...core.saving import load
    from ...hugging_face import predicts_the_next_token

    network = load(folder)
    if not predicts_the_next_token(network.model):
        raise CheckpointError(
            f"{folder} holds a network of {type(network.model).__name__}: expected one of a causal language model of "
            "transformers, such as LlamaForCausalLM; the other commands are for image networks"
        )
    return network


def _config(folder: Path) -> Mapping[str, Any]:
    return _object(folder / CONFIG, "fetch the folder again")


def _object(path: Path, fix: str) -> dict[str, Any]:
    """A JSON object written by transformers; its numbers may be infinite or huge, which our own `read_json` refuses."""
    try:
        found = json.loads(read_bytes(path, CheckpointError, fix))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged ({one_line(error)}): {fix}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} does not contain a JSON object: {fix}")
    return found


def _plain(folder: Path) -> "nn.Module":
    """The model in a folder of transformers, in float32, on the CPU, in eval mode."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds neither {CONFIG} nor {NETWORK}: expected a folder of transformers, with {CONFIG}, "
            "safetensors and a tokenizer, or one that text train wrote"
        )
    _check_config(folder, _config(folder))
    import torch
    from transformers import AutoModelForCausalLM

    found: Any
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = load(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            # Mismatches are reported below, with the fix.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise errors of many types
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {one_line(error)}): its files are missing, truncated or "
            "inconsistent; fetch it again, with its weights as safetensors"
        ) from error
    if other := sorted(str(key[0]) for key in found["mismatched_keys"]):
        raise CheckpointError(
            f"{folder} holds weights whose shapes differ from its {CONFIG} ({', '.join(other[:3])}"
            f"{', ...' * (len(other) > 3)}): the files of two models are mixed, fetch it again"
        )
    if absent := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"{folder} has no weights for parts of its model, which would be random ({', '.join(absent[:3])}"
            f"{', ...' * (len(absent) > 3)}, {len(absent)} in all): fetch it again, with all of its safetensors"
        )
    if dropped := _left_over(model, found["unexpected_keys"]):
        raise CheckpointError(
            f"{folder} holds weights that its {CONFIG} leaves out ({', '.join(dropped[:3])}"
            f"{', ...' * (len(dropped) > 3)}, {len(dropped)} in all), so this would be another model: the files of two "
            "models are mixed, or the number of layers or a bias was changed; fetch it again"
        )
    _check_kind(folder, model)
    return model.eval()


def _left_over(model: Any, names: Iterable[str]) -> list[str]:
    """The unused weights that belong to the model's own kinds of layers: further layers, or biases of its layers.

    Others do not matter: a vision tower, or the head of another task.
    """
    known = set(model.state_dict())

    def own(name: str) -> bool:
        place, _, leaf = name.rpartition(".")
        beside = any(f"{place}.{other}" in known for other in ("weight", "bias") if other != leaf)
        # Layers have the same names except for their number.
        return re.sub(r"\.\d+\.", ".0.", name, count=1) in known or (leaf in ("weight", "bias") and beside)

    return sorted(name for name in names if own(name))


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise unless a config names a causal language model that is part of transformers."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    from ...hugging_face import code_asked_for

    kind, code = config.get("model_type"), code_asked_for(config)
    remote = code.pop("auto_map", None)
    if remote and kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{folder} asks for custom code ({CONFIG}: auto_map), which is never run here, and transformers "
            f"{transformers.__version__} has no model_type {kind!r}: load it in Python, where you decide, and adapt it "
            "there (ad.adapt, docs/language.md)"
        )
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), CONFIG_MAPPING, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "expected one such as llama, qwen3 or gpt2"
        raise CheckpointError(
            f"{folder / CONFIG} names model_type {kind!r}, which transformers {transformers.__version__} does not "
            f"know: {hint}"
        )
    if remote:
        typer.echo(f"{folder} names custom code (auto_map); {kind} of transformers is used instead", err=True)
    for name, value in code.items():
        raise CheckpointError(
            f"{folder / CONFIG} asks for a kernel from the Hub ({name}: {value!r}), code that is never fetched here: "
            "remove that entry"
        )
    decoder = config.get("is_decoder", False) or config.get("is_encoder_decoder") is False
    if config.get("is_encoder_decoder") or (kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and not decoder):
        raise _of_another_kind(folder, kind, "an encoder-decoder")
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decoder:
        raise _of_another_kind(folder, kind, _ENCODER)
    if kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _of_another_kind(folder, kind, "not a causal language model")


def _of_another_kind(folder: Path, kind: Any, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds a model of {kind}, {what}: expected a causal language model, such as llama, qwen3 or gpt2; "
        "train others in Python (ad.tasks.LanguageModel(shift=False))"
    )


def _check_kind(folder: Path, model: Any) -> None:
    from ...errors import TrainingError
    from ...tasks.language import language_task

    try:
        known = language_task(model)
    except TrainingError as error:
        raise _of_another_kind(folder, model.config.model_type, _ENCODER) from error
    if known is None:
        raise _of_another_kind(folder, model.config.model_type, "not a causal language model")


def _tokenizer(folder: Path, model: Any) -> Any:
    if not has_tokenizer(folder):
        raise DataError(
            f"{folder} has no tokenizer: expected tokenizer.json beside the model; copy the tokenizer's files there"
        )
    import transformers
    from transformers import AutoTokenizer

    from ...hugging_face import code_asked_for

    path = folder / "tokenizer_config.json"
    config = _object(path, "copy the tokenizer's files there again") if path.is_file() else {}
    if code_asked_for(config) and not hasattr(transformers, str(config.get("tokenizer_class"))):
        raise DataError(
            f"the tokenizer of {folder} asks for custom code ({path.name}: auto_map), which is never run here: save it "
            "in Python, where you decide, as a plain tokenizer.json"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Not `len`, because ids may have gaps.
        largest = max(tokenizer.get_vocab().values())
    except Exception as error:  # transformers and tokenizers raise errors of many types
        raise DataError(
            f"the tokenizer of {folder} cannot be read ({type(error).__name__}: {one_line(error)}): copy the "
            "tokenizer's files there again"
        ) from error
    rows = (model.model if is_adapted(model) else model).get_input_embeddings().num_embeddings
    if largest >= rows:
        raise DataError(
            f"the tokenizer of {folder} does not fit the model: it has ids up to {largest}, but the embedding has "
            f"{rows} rows; expected the model's own tokenizer"
        )
    return tokenizer


@contextmanager
def quiet() -> "Iterator[None]":
    """Inside, transformers shows no progress or warnings and fetches no code; the commands report what matters."""
    # If the package kernels is installed, transformers fetches code from the Hub for some models, such as Mamba.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao, imported by transformers, logs there
    from transformers.utils import logging as theirs

    before, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DepthsLeftOut)
            yield
    finally:
        theirs.set_verbosity(before)
        if bars:
            theirs.enable_progress_bar()

"""The inputs of `generate`: prompts of any lengths, checked where they enter."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batches import device_of, is_whole
from ..core.network import AdaptiveNetwork, check_runs
from ..errors import DataError
from ..hugging_face import context_of, foreign_tokens, predicts_the_next_token


def check_writes(network: object, received_by: str) -> None:
    """Raise if something other than an adapted causal language model was given."""
    check_runs(network, received_by, DataError)
    assert isinstance(network, AdaptiveNetwork)
    if not predicts_the_next_token(network.model):
        raise DataError(
            f"{received_by} received a network of {type(network.model).__name__}: expected one of a causal language "
            "model of transformers, such as LlamaForCausalLM; for any other with generate, call "
            "network.subnet(skip).generate(...)"
        )


def with_padding(network: AdaptiveNetwork, options: Mapping[str, Any]) -> dict[str, Any]:
    known = getattr(getattr(network.model, "generation_config", None), "pad_token_id", None)
    # Without it, transformers warns at every call.
    return {**({} if known is not None else {"pad_token_id": padding_of(network)}), **options}


def padding_of(network: AdaptiveNetwork) -> int:
    """The id for padding: the model's own, or that of its end token, or 0 if there is neither."""
    for name in ("pad_token_id", "eos_token_id"):
        found = _special(network, name)
        found = found[0] if isinstance(found, list) and found else found  # Llama 3 has several end tokens
        if isinstance(found, int):
            return found
    return 0  # masked, so any id will do


def _special(network: AdaptiveNetwork, name: str) -> Any:
    """A token of a model's config; None if it has no such field (RWKV's has no padding)."""
    config: Any = network.model.config
    # Multimodal models nest the settings for text.
    return getattr(config.get_text_config(), name, None)


def prompts_of(network: AdaptiveNetwork, tokens: Any, mask: Any) -> tuple[Tensor, Tensor]:
    """Token ids `[rows, tokens]` and their mask, on the network's device."""
    device, pad = device_of(network), padding_of(network)
    if isinstance(tokens, Mapping):  # a tokenizer's output
        mask = tokens.get("attention_mask") if mask is None else mask
        tokens = tokens["input_ids"]
    text = isinstance(tokens, str) or (isinstance(tokens, Sequence) and any(isinstance(line, str) for line in tokens))
    if text:
        raise DataError(f"prompts are text, {tokens!r}: expected token ids, tokenizer(text)['input_ids']")
    if isinstance(tokens, Sequence) and tokens and all(isinstance(line, Sequence | Tensor) for line in tokens):
        lines = _lines(tokens, mask)
        longest = max(len(line) for line in lines)
        ids = torch.stack([torch.cat([line.new_full((longest - len(line),), pad), line]) for line in lines])
        mask = torch.stack([torch.arange(longest) >= longest - len(line) for line in lines]).long()
        if not all(len(line) for line in lines):
            raise DataError("a prompt is empty: expected at least one token in each, such as the model's bos_token_id")
    elif isinstance(tokens, Tensor) and tokens.ndim == 2 and is_whole(tokens):
        ids = tokens
    else:
        received = f"a tensor {list(tokens.shape)} of {tokens.dtype}" if isinstance(tokens, Tensor) else repr(tokens)
        raise DataError(
            f"prompts are {received}: expected token ids [rows, tokens], or lists in a list; one prompt is [ids]"
        )
    if not ids.numel():
        raise DataError(
            f"prompts are {list(ids.shape)}: expected at least one token in each, such as the model's bos_token_id"
        )
    if found := foreign_tokens(network.model, ids):
        raise DataError(f"prompts contain {found}")
    if mask is None:
        _check_not_padded(network, ids)
        mask = torch.ones_like(ids)
    mask = torch.as_tensor(mask)
    if mask.shape != ids.shape:
        raise DataError(f"attention_mask {list(mask.shape)} for tokens {list(ids.shape)}: expected one entry per token")
    seen = mask != 0
    if not bool(seen[:, -1].all()) or bool((seen[:, :-1] & ~seen[:, 1:]).any()):
        raise DataError(
            "attention_mask masks tokens after others, but a text continues where its prompt ends: expected padding on "
            "the left (padding_side='left' of the tokenizer), or the prompts as a list of lists"
        )
    return ids.to(device), mask.to(device)


def _lines(tokens: Sequence[Any], mask: Any) -> list[Tensor]:
    """The prompts of a list, without the padding that their mask marks."""
    lines = [_line(line) for line in tokens]
    if mask is None:
        return lines
    seen = [torch.as_tensor(line) != 0 for line in mask]
    if [len(each) for each in seen] != [len(line) for line in lines]:
        raise DataError(
            f"attention_mask of {', '.join(str(len(each)) for each in seen)} tokens for prompts of "
            f"{', '.join(str(len(line)) for line in lines)}: expected one entry per token; lists need no mask"
        )
    return [line[each] for line, each in zip(lines, seen, strict=True)]


def _line(given: Any) -> Tensor:
    try:
        line = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a prompt is {given!r} ({error}): expected a list of token ids, whole numbers") from error
    # An empty list becomes a float tensor, which the next check would reject for its dtype.
    if not len(given):
        return line.long()
    if line.ndim != 1 or not is_whole(line):
        raise DataError(f"a prompt is {given!r}: expected a list of token ids, whole numbers")
    return line.long()


def _check_not_padded(network: AdaptiveNetwork, ids: Tensor) -> None:
    """Padding without a mask would be read as text."""
    pad = _special(network, "pad_token_id")
    if not isinstance(pad, int) or len(ids) < 2:
        return
    edges = (ids[:, 0] == pad) | (ids[:, -1] == pad)
    # If every row has it, it is more likely a start or end token with the same id.
    if bool(edges.any()) and not bool(edges.all()):
        raise DataError(
            f"rows of the batch start or end with the padding token {pad}, but there is no attention_mask: pass the "
            "tokenizer's mask, or the prompts as a list of lists, which are padded here"
        )


def asked_for(name: str, options: Mapping[str, Any]) -> Any:
    """A setting of `generate` of transformers: by its name, or in a `generation_config`; None if it is not set."""
    found = options.get(name)
    return getattr(options.get("generation_config"), name, None) if found is None else found


def check_length(network: AdaptiveNetwork, mask: Tensor, options: Mapping[str, Any] | None) -> None:
    """Raise if a text would exceed the model's positions, or has no room for a token.

    Arguments:
        options: of `generate`; None if nothing is written.
    """
    # Padding takes up no positions.
    known, longest, new = context_of(network.model), int(mask.sum(dim=1).max()), 0
    if options is not None:
        new = asked_for("max_new_tokens", options)
        if new is None:
            most = asked_for("max_length", options)
            # transformers counts padding in `max_length`.
            if most is not None and most <= mask.shape[1]:
                raise DataError(
                    f"max_length={most} for prompts of {mask.shape[1]} tokens, which it includes: expected more, or "
                    "max_new_tokens"
                )
            new = 1 if most is None else most - mask.shape[1]
        if new < 1:
            raise DataError(f"max_new_tokens={new}: expected 1 or more")
    if known is not None and longest + new > known:
        further = "" if not new else " and a new one" if new == 1 else f" and {new} new ones"
        raise DataError(
            f"a prompt of {longest} tokens{further} exceeds the model's context of {known}: expected fewer of either; "
            "keep the last tokens of the prompt"
        )

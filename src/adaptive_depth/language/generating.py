"""`generate` of transformers at a chosen depth: per request, per row of a batch, with a shallower depth drafting."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..core.caches import cache_in, filled, no_cache
from ..core.network import AdaptiveNetwork
from ..errors import DataError, SkipError
from ..hugging_face import keeps_a_state
from ..skip import Skip, parse_skip
from .draft import Draft, check_shallower, check_verifies, draft_of
from .prompts import asked_for, check_length, check_writes, padding_of, prompts_of, with_padding


def generate(
    network: AdaptiveNetwork,
    tokens: Any = None,
    *,
    skip: Skip | Sequence[Skip] | None = None,
    draft: Draft | Skip | None = None,
    input_ids: Any = None,
    attention_mask: Any = None,
    **options: Any,
) -> Tensor:
    """Continue texts at a depth, as `generate` of transformers does on a model with only these layers.

    Arguments:
        network: an adapted causal language model of transformers.
        tokens: prompts, token ids `[rows, tokens]`; or a list with the ids of each prompt, of any lengths, which are
            padded on the left; or a tokenizer's output for texts.
        skip: the depth of all rows, or one per row; the super-net if None. Rows of one depth run as one batch; for a
            model that keeps a state (Mamba), rows of one depth and length.
        draft: a shallower depth that drafts tokens, which the row's depth verifies: the text is the same, in less time
            if the drafts are good (Leviathan et al., 2023). A `Draft` from `choose_draft`, or a skip.
        input_ids: `tokens` by the name that tokenizers use: `generate(network, **tokenizer(texts))`.
        attention_mask: `[rows, tokens]`, 0 for padding, which is on the left in a tensor.
        **options: of `generate` of transformers: `max_new_tokens`, `do_sample`, `streamer`, ...

    Returns:
        Prompts and their continuations, `[rows, longest]`; rows that end earlier are padded on the right.

    Raises:
        DataError: prompts that are empty, contain ids outside the vocabulary, leave no room in the model's context, or
            are padded without a mask; options that request anything but one text per prompt.
        SkipError: a skip that does not fit the network, or a draft that is not shallower than its verifier.
        StagesError: a network of another model.

    Example:
        >>> import torch, transformers, adaptive_depth as ad
        >>> sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        >>> config = transformers.LlamaConfig(**sizes, num_hidden_layers=4)
        >>> network = ad.adapt(transformers.LlamaForCausalLM(config))
        >>> generate(network, [[7, 8, 9], [4]], skip=["F", "T"], max_new_tokens=2, min_new_tokens=2).shape
        torch.Size([2, 5])
    """
    check_writes(network, "generate")
    if (tokens is None) == (input_ids is None):
        raise DataError(
            f"generate received {'no prompts' if tokens is None else 'prompts twice, as tokens and as input_ids'}: "
            "expected token ids, generate(network, tokens), or what a tokenizer returns, "
            "generate(network, **tokenizer(texts))"
        )
    ids, mask = prompts_of(network, input_ids if tokens is None else tokens, attention_mask)
    rows = _skips(network, skip, len(ids))
    check_length(network, mask, options)
    _check_options(network, ids, options, drafted=draft is not None)
    assisted = None if draft is None else draft_of(network, draft)
    if assisted is not None:
        check_verifies(network)
        for each in set(rows):
            check_shallower(assisted.skip, each)
    results: dict[int, Tensor] = {}
    together = _together(network, rows, mask, drafted=draft is not None)
    if len(together) > 1 and options.get("past_key_values") is not None:
        raise DataError(
            f"one cache for {len(together)} batches, because rows of different depth (or length, or with drafts) run "
            "separately: expected a call for each"
        )
    for each, part in together:
        found = _continued(network, each, ids[part], mask[part], assisted, options)
        results |= dict(zip(part, found, strict=True))
    longest = max(len(line) for line in results.values())
    pad = padding_of(network)
    return torch.stack([_padded(results[row], longest, pad) for row in range(len(ids))])


def _together(
    network: AdaptiveNetwork, skips: Sequence[str], mask: Tensor, *, drafted: bool
) -> list[tuple[str, list[int]]]:
    """Which rows run as one batch, and their depth.

    transformers supports drafts for one row only. Some models that keep a state let padding into it (RecurrentGemma,
    RWKV), so these get no padding.
    """
    lengths = mask.sum(dim=1).tolist() if keeps_a_state(network.model) else [0] * len(skips)
    found: dict[tuple[str, int, int], list[int]] = {}
    for row, (skip, length) in enumerate(zip(skips, lengths, strict=True)):
        found.setdefault((skip, length, row if drafted else 0), []).append(row)
    return [(key[0], found[key]) for key in sorted(found)]


def _check_options(network: AdaptiveNetwork, ids: Tensor, options: Mapping[str, Any], *, drafted: bool) -> None:
    """Raise if the options request anything but one text per prompt."""
    own = "call network.subnet(skip).generate(...), which supports all options of transformers"
    asked = {name: asked_for(name, options) for name in (*_SEVERAL, *_NOT_DRAFTED)}
    for name in _SEVERAL:
        # True == 1, but `return_dict_in_generate=True` must be refused.
        if asked[name] and (asked[name] is True or asked[name] != 1):
            raise DataError(f"{name}={asked[name]!r}: expected one text per prompt, as token ids; {own}")
    if options.get("streamer") is not None and len(ids) > 1:
        raise DataError(f"a streamer for {len(ids)} prompts: it shows only one; call generate for each, with its own")
    if drafted:
        alone = [name for name in ("cache_implementation", "stopping_criteria", "stop_strings") if asked[name]]
        # None means not set, which is fine.
        alone += ["use_cache"] if asked["use_cache"] is False else []
        alone += ["num_beams"] if (asked["num_beams"] or 1) > 1 else []
        if alone:
            raise DataError(
                f"{', '.join(alone)} with a draft: transformers verifies drafts only with a growing cache, and stops "
                "exactly only at end tokens and lengths; leave out one of them"
            )
    _check_cache(network, ids, options.get("past_key_values"))


_SEVERAL = ("num_return_sequences", "return_dict_in_generate")
_NOT_DRAFTED = ("cache_implementation", "stopping_criteria", "stop_strings", "use_cache", "num_beams")


def _check_cache(network: AdaptiveNetwork, ids: Tensor, cache: Any) -> None:
    """Raise if a cache is invalid, or leaves no token to process."""
    if cache is not None and not hasattr(cache, "get_seq_length") and not keeps_a_state(network.model):
        raise DataError(
            f"past_key_values is a {type(cache).__name__}: expected a cache of transformers, which knows its length, "
            "such as catch_up(network, skip, tokens[:, :-1]) returns"
        )
    taken = signature(network.model.forward).parameters
    if cache is not None and "cache_params" in taken and "past_key_values" not in taken:
        raise DataError(
            f"a {type(network.model).__name__} takes no past_key_values: expected its state as cache_params, "
            "generate(network, tokens, skip=skip, cache_params=catch_up(network, skip, tokens[:, :-1]))"
        )
    if cache is None or not filled(cache) or not hasattr(cache, "get_seq_length"):
        return
    if cache.get_seq_length() >= ids.shape[1]:
        raise DataError(
            f"a cache of {cache.get_seq_length()} tokens for prompts of {ids.shape[1]}: expected fewer, because at "
            "least the last token comes next; make a new one for each text, catch_up(network, skip, tokens[:, :-1])"
        )


def catch_up(network: AdaptiveNetwork, skip: Skip, tokens: Tensor, attention_mask: Tensor | None = None) -> Any:
    """A sub-network's cache for the tokens so far, to continue at a different depth from the one that wrote them.

    Keys and values of a layer depend on all layers before it, so those of another depth cannot be reused: the tokens
    are processed again, all at once.

    Arguments:
        tokens: `[rows, tokens]`, all but the one to process next.

    Returns:
        What the sub-network and `generate` take as `past_key_values`; for Mamba, as `cache_params`.

    Raises:
        DataError: as for `generate`.
    """
    check_writes(network, "catch_up")
    ids, mask = prompts_of(network, tokens, attention_mask)
    check_length(network, mask, None)
    if keeps_a_state(network.model) and not bool(mask.all()):
        raise DataError(
            f"padded texts of several lengths for a {type(network.model).__name__}, whose state padding may change: "
            "expected texts of one length; catch up with the others separately"
        )
    with torch.no_grad():
        output = network.subnet(skip)(input_ids=ids, attention_mask=mask, use_cache=True)
    found = cache_in(output)
    if found is None:
        raise DataError(no_cache(network.model))
    return found[1]


def _continued(
    network: AdaptiveNetwork, skip: str, ids: Tensor, mask: Tensor, draft: Draft | None, options: Mapping[str, Any]
) -> Tensor:
    model: Any = network.subnet(skip)
    # `argmax` returns the first of equal values, but does not take booleans.
    kept = mask.any(dim=0).long().argmax()  # leading columns that are padding in all these rows
    ids, mask = ids[:, kept:], mask[:, kept:]
    with torch.no_grad():
        if draft is None:
            found = model.generate(ids, attention_mask=mask, **with_padding(network, options))
        else:
            found = draft.run(network, model, ids, mask, with_padding(network, options))
    # The model's own `generation_config` may request a dict.
    text = found if isinstance(found, Tensor) else found.sequences
    padding = ids.new_full((len(text), int(kept)), padding_of(network))
    return torch.cat([padding, text], dim=1)


def _padded(line: Tensor, length: int, pad: int) -> Tensor:
    return torch.cat([line, line.new_full((length - len(line),), pad)])


def _skips(network: AdaptiveNetwork, skip: Any, rows: int) -> list[str]:
    stages = len(network.stages)
    if skip is None:
        return [network.skips[0]] * rows
    # (True, False) is one skip of two stages, not the skips of two rows.
    one = isinstance(skip, str) or (isinstance(skip, Sequence) and all(isinstance(flag, bool) for flag in skip))
    if one:
        return [parse_skip(skip, stages)] * rows
    if not isinstance(skip, Sequence) or len(skip) != rows:
        raise SkipError(f"skip={skip!r} for {rows} rows: expected one skip, or one per row")
    return [parse_skip(each, stages) for each in skip]

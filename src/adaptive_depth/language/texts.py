"""Between texts and tokens: a prompt's tokens by a transformers tokenizer, and how new ones are chosen."""

from typing import Any


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text to be continued: with the tokenizer's start token, without its end token."""
    # Not verbose: it would warn about texts beyond the context, which `check_length` rejects anyway.
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    ends = ids[-1:] == [tokenizer.eos_token_id] and not text.endswith(tokenizer.eos_token or "")
    return ids[:-1] if ends else ids


def text_behind(tokenizer: Any, ids: list[int], behind: int) -> str:
    """The text after the first tokens; decoded with them, because some tokenizers strip a text's first space."""
    whole, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:behind]))
    return (
        whole.removeprefix(before)
        if whole.startswith(before)
        else tokenizer.decode(ids[behind:], skip_special_tokens=True)
    )


def sampling(network: Any, tokenizer: Any, temperature: float, top_p: float | None) -> dict[str, Any]:
    """Options of `generate` for choosing tokens, which override the model's own settings.

    Arguments:
        network: an adapted causal language model of transformers.
        tokenizer: its own.
        temperature: 0 always takes the most likely token.
        top_p: draw from the most likely tokens with this total probability; None for all.
    """
    # Set explicitly: transformers' default for `top_k` is 50, and a model's own settings may request beams.
    found: dict[str, Any] = {"do_sample": temperature > 0, "top_k": 0, "num_beams": 1}
    # 1.0 is "off": transformers rejects 0, and warns about other values if nothing is sampled.
    found |= {"temperature": temperature or 1.0, "top_p": top_p or 1.0}
    # Without an end token, every text would run to its full length.
    if network.model.generation_config.eos_token_id is None and tokenizer.eos_token_id is not None:
        found["eos_token_id"] = tokenizer.eos_token_id
    return found

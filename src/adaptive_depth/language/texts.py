"""Between texts and tokens: what a tokenizer of transformers makes of a prompt, and how tokens are chosen."""

from typing import Any


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """A text that is gone on from: begun as the tokenizer begins one, and not ended."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    ends = ids[-1:] == [tokenizer.eos_token_id] and not text.endswith(tokenizer.eos_token or "")
    return ids[:-1] if ends else ids


def text_behind(tokenizer: Any, ids: list[int], behind: int) -> str:
    """What stands behind the first tokens; decoded with them, for some tokenizers begin a text without a space."""
    whole, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:behind]))
    return (
        whole.removeprefix(before)
        if whole.startswith(before)
        else tokenizer.decode(ids[behind:], skip_special_tokens=True)
    )


def sampling(network: Any, tokenizer: Any, temperature: float, top_p: float | None) -> dict[str, Any]:
    """Options of `generate` that say how tokens are chosen, whatever the model's own settings are.

    Arguments:
        network: an adapted causal language model of transformers.
        tokenizer: its own.
        temperature: 0 takes the likeliest token each time.
        top_p: draw from the likeliest tokens of this probability together; None for all.
    """
    found: dict[str, Any] = {"do_sample": temperature > 0, "top_k": 0, "num_beams": 1}
    found |= {"temperature": temperature or 1.0, "top_p": top_p or 1.0}
    if network.model.generation_config.eos_token_id is None and tokenizer.eos_token_id is not None:
        found["eos_token_id"] = tokenizer.eos_token_id
    return found

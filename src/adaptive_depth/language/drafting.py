"""Draft and verify: a shallow depth writes a few tokens ahead, a deep one checks them in one pass."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch

from ..core.network import AdaptiveNetwork
from ..core.usable import usable
from ..errors import MeasurementError
from ..skip import Skip, parse_skip
from ..text import left_out_lines
from .draft import Draft, check_shallower, check_verifies, is_shallower
from .prompts import check_length, check_writes, prompts_of, with_padding

_LENGTHS = (2, 4, 8)


@dataclass(frozen=True)
class Tried:
    """What `choose_draft` measured.

    Attributes:
        draft: the fastest one; None if plain decoding is faster.
        speedups: the speed with each draft relative to none (the median over prompts).
        left_out: shallower depths that cannot write text on their own, and why.
    """

    draft: Draft | None
    speedups: dict[Draft, float]
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{'draft':<10} {'tokens ahead':>12} {'speedup':>13}"]
        for draft, speedup in sorted(self.speedups.items(), key=lambda each: -each[1]):
            lines.append(f"{draft.skip:<10} {draft.tokens:>12} {speedup:>13.2f}")
        lines.append("best: none, plain decoding" if self.draft is None else f"best: {self.draft}")
        return "\n".join([*lines, *left_out_lines(self.left_out)])


def choose_draft(
    network: AdaptiveNetwork,
    prompts: Any,
    *,
    skip: Skip | None = None,
    drafts: Iterable[Skip] | None = None,
    lengths: Sequence[int] = _LENGTHS,
    new_tokens: int = 32,
    on_progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Tried:
    """Find by measurement which depth should draft for a deeper one, and how many tokens ahead.

    Every candidate, including plain decoding, writes the same text after each prompt, in an order shuffled for each
    prompt; a draft's speedup is the median over prompts of its ratio to plain decoding.

    Arguments:
        network: an adapted causal language model of transformers, in eval mode, on the device that it will run on.
        prompts: typical of later use, as `generate` takes them; three or more, for a median.
        skip: the depth that verifies; the super-net if None.
        drafts: the depths to try: by default the shallowest eight that skip everything that it skips and more,
            without those that cannot write text on their own (`Tried.left_out`).
        lengths: how many tokens ahead.
        new_tokens: to write after each prompt.
        **options: of `generate` of transformers, such as `do_sample`.

    Raises:
        MeasurementError: nothing to try.
        DataError, SkipError: as for `generate`.

    Example:
        >>> import torch, transformers, adaptive_depth as ad
        >>> sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        >>> config = transformers.LlamaConfig(**sizes, num_hidden_layers=4)
        >>> network = ad.adapt(transformers.LlamaForCausalLM(config)).eval()
        >>> list(choose_draft(network, [[7, 8], [9, 4]], lengths=(2,), new_tokens=4).speedups)
        [Draft(skip='T', tokens=2)]
    """
    check_writes(network, "choose_draft")
    check_verifies(network)
    ids, mask = prompts_of(network, prompts, None)
    check_length(network, mask, {"max_new_tokens": new_tokens})
    verifier = network.skips[0] if skip is None else parse_skip(skip, len(network.stages))
    left_out: dict[str, str] = {}
    if drafts is None:
        chosen, left_out = usable(network, _shallower(network, verifier))
    else:
        chosen = [parse_skip(draft, len(network.stages)) for draft in drafts]
    for each in chosen:
        check_shallower(each, verifier)
    tried = [Draft(each, length) for each in chosen for length in lengths]
    if not tried:
        why = " ".join(left_out_lines(left_out))
        raise MeasurementError(
            f"no draft to try for {verifier}: expected depths that skip more, and lengths such as 4. {why}".rstrip()
        )
    # The same number of tokens for all, so that their times are comparable.
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, **with_padding(network, options)}
    model: Any = network.subnet(verifier)
    ways: list[Draft | None] = [None, *tried]
    seconds: dict[Draft | None, list[float]] = {way: [] for way in ways}
    order = random.Random(0)
    with torch.no_grad():
        for row in range(-1, len(ids)):  # the first row is a warm-up
            for way in order.sample(ways, len(ways)):
                line, seen = ids[[row]][:, mask[row].bool()], mask[[row]][:, mask[row].bool()]
                # No synchronisation needed: `generate` checks on the CPU after each token whether the text has ended.
                start = perf_counter()
                if way is None:
                    model.generate(line, attention_mask=seen, **settings)
                else:
                    way.run(network, model, line, seen, settings)
                if row >= 0:
                    seconds[way].append(perf_counter() - start)
            if on_progress is not None:
                on_progress(row + 2, len(ids) + 1, "drafts")
    plain = seconds[None]
    speedups = {way: median(a / b for a, b in zip(plain, seconds[way], strict=True)) for way in tried}
    best = max(tried, key=speedups.__getitem__)
    return Tried(best if speedups[best] > 1 else None, speedups, left_out)


def _shallower(network: AdaptiveNetwork, verifier: str) -> list[str]:
    """The shallowest eight depths that skip everything that the verifier skips, and more."""
    found = [each for each in network.skips if is_shallower(each, verifier)]
    # Each is tried with every length, and there are up to 2^N.
    return sorted(found, key=lambda each: -each.count("T"))[:8]

"""What text costs at every depth: time to first token, time per further token, size of the cache."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import is_whole
from ..choose.costs import Cost, Profile
from ..core.caches import cache_in, no_cache
from ..core.network import AdaptiveNetwork, check_runs
from ..core.usable import usable
from ..errors import MeasurementError
from ..hugging_face import context_of, foreign_tokens, predicts_the_next_token, writes_text
from ..modes import evaluating
from ..skip import Skip
from ..stopwatch import drift, milliseconds, planned, time_all
from .instruments.conditions import describe, moment
from .instruments.macs import count_macs
from .instruments.timing import waiter, warm_up
from .profiling import OnProgress, check_rounds, chosen_skips, device_failures, say_nothing


def profile_generation(
    network: AdaptiveNetwork,
    prompt: Tensor | Mapping[str, Tensor],
    *,
    new_tokens: int = 32,
    skips: Iterable[Skip] | None = None,
    rounds: int | None = None,
    seconds: float = 40.0,
    warmup: int | None = None,
    on_progress: OnProgress | None = None,
) -> Profile:
    """Measure what it costs to continue a text at each depth, on the device of the prompt.

    In each round every sub-network continues the prompt once, greedily and with its own cache, in a newly shuffled
    order, as `profile` times passes. A round keeps the time to the first token and the median time of the following
    steps; the profile holds the medians of both over the rounds. Accelerators are synchronised after each token, as if
    text were streamed.

    Multiply-adds are those of the prompt for one text of the batch, with logits for its last position only if the
    model can leave out the others. The cache is measured at its full length, `prompt + new_tokens - 1`.

    Arguments:
        network: an adapted causal language model of transformers.
        prompt: token ids `[batch, tokens]`, or a dict of `input_ids` and `attention_mask`. Padding goes on the left.
        new_tokens: to write, including the first one; at least 2.
        skips: which sub-networks, one or several; by default all that can keep their own cache; the profile and a
            warning give the reason for the others (`Profile.left_out`).
        rounds: how often each continues the prompt. By default as often as `seconds` allow, 6 to 100 times.
        seconds: about how long the timing takes if `rounds` is not given, in addition to warm-up.
        warmup: untimed rounds in advance; by default until steady, as in `profile`.
        on_progress: called with (done, total, what) after each round.

    Returns:
        A profile whose costs have `first_token_ms`, `token_ms`, `cache_kb`, `macs` and `parameters`.

    Raises:
        SkipError: a skip that does not fit the stages.
        StagesError: a model whose sub-networks cannot keep their own cache, or one of `skips` that cannot.
        MeasurementError: a model that does not continue text, an invalid or overlong prompt, arguments out of range,
            or a device that failed during the measurement.

    Example:
        >>> import adaptive_depth as ad, torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=4)
        >>> net = ad.adapt(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)))
        >>> result = profile_generation(net, torch.arange(3, 11)[None], new_tokens=4, rounds=2)
        >>> result.costs["F"].cache_kb, result.costs["T"].cache_kb  # 2 x layers x 16 numbers of 4 bytes
        (0.512, 0.384)
    """
    check_runs(network, "profile_generation", MeasurementError)
    check_rounds(rounds, seconds, warmup)
    _check_model(network.model)
    inputs = _checked_prompt(prompt, network.model, new_tokens)
    chosen = chosen_skips(network, skips)
    ids, tell = inputs["input_ids"], on_progress or say_nothing
    with evaluating(network), torch.no_grad(), device_failures(ids.device):
        network(**inputs, use_cache=False)  # proves hand-written stages
        chosen, left_out = usable(network, chosen) if skips is None else (chosen, {})
        wait, takes = waiter(ids.device), {*inspect.signature(type(network.model).forward).parameters}
        texts = {skip: _Text(network.subnet(skip), inputs, new_tokens, wait, takes) for skip in chosen}
        counts = count_macs({skip: text.begin for skip, text in texts.items()})
        conditions: dict[str, Any] = {"new_tokens": new_tokens, "before": moment(ids.device)}
        conditions["warmup_rounds"] = warm_up(texts, wait, warmup, seconds)
        for text in texts.values():
            text.forget()
        plan = partial(planned, rounds, seconds)
        times = time_all(texts, plan, lambda done, total: tell(done, total, "generation"), wait=wait)
    conditions |= {"rounds": len(times[chosen[0]]), "after": moment(ids.device), "drift_percent": drift(times)}
    cached = ids.shape[1] + new_tokens - 1
    conditions |= {"cache_tokens": cached, "cache_grows": all(text.grows for text in texts.values())}
    costs = {
        skip: Cost(
            skip,
            round(counts.macs[skip] / len(ids)),
            sum(p.numel() for p in text.subnet.parameters()),
            times_ms=tuple(round(each, 4) for each in text.steps_ms),
            first_token_ms=median(text.firsts_ms),
            token_ms=median(text.steps_ms),
            cache_kb=text.cached_bytes / (len(ids) * cached) / 1000,
        )
        for skip, text in texts.items()
    }
    found = Profile(costs, len(ids), describe(ids.device), counts.uncounted, network=network.fingerprint)
    shapes = tuple(tuple(each.shape) for each in inputs.values())
    return replace(found, conditions=conditions, inputs=shapes, prompt_tokens=ids.shape[1], left_out=left_out)


class _Text:
    """A sub-network that continues the prompt each time it is called, and records how long that took."""

    def __init__(
        self,
        subnet: nn.Module,
        inputs: Mapping[str, Tensor],
        new_tokens: int,
        wait: Callable[[], None],
        takes: set[str],
    ) -> None:
        self.subnet, self.inputs, self.new_tokens, self.wait = subnet, inputs, new_tokens, wait
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._mask = inputs.get("attention_mask")
        self._places = self._mask is not None and "position_ids" in takes
        self._batch, self._prompt_tokens = inputs["input_ids"].shape
        self.forget()

    def forget(self) -> None:
        """Drop the times of the warm-up."""
        self.firsts_ms: list[float] = []
        self.steps_ms: list[float] = []  # the median of each round

    def __call__(self) -> None:
        self.firsts_ms.append(milliseconds(self.begin, self.wait))
        began = tensor_bytes(self._cache)
        self.steps_ms.append(median(milliseconds(self._step, self.wait) for _ in range(self.new_tokens - 1)))
        self.cached_bytes = tensor_bytes(self._cache)
        # A growing cache takes as much for each new token as for each earlier one.
        grown = (self.cached_bytes - began) / (self.new_tokens - 1)
        self.grows = grown * self._prompt_tokens >= 0.999 * began
        del self._cache  # frees the memory for the next sub-network

    def begin(self) -> None:
        """From the prompt to its first token."""
        inputs = dict(self.inputs)
        if self._mask is not None and self._places:
            places = (self._mask.long().cumsum(1) - 1).clamp(min=0)
            inputs["position_ids"], self._place = places, places[:, -1:]
        output = self.subnet(**inputs, **self._last, use_cache=True)
        found = cache_in(output)
        if found is None:
            raise MeasurementError(f"{no_cache(self.subnet)}; time its passes with profile instead")
        self._name, self._cache = found
        self._seen = self._mask
        self._token = output["logits"][:, -1:].argmax(-1)

    def _step(self) -> None:
        """One more token."""
        inputs: dict[str, Any] = {"input_ids": self._token, self._name: self._cache, "use_cache": True}
        if (
            self._seen is not None and self._name == "past_key_values"
        ):  # a state has no positions to mask (Mamba would write a different text)
            self._seen = torch.cat([self._seen, self._seen.new_ones(self._batch, 1)], 1)
            inputs["attention_mask"] = self._seen
            if self._places:
                self._place = self._place + 1
                inputs["position_ids"] = self._place
        output = self.subnet(**inputs)
        self._cache = output[self._name]
        self._token = output["logits"][:, -1:].argmax(-1)


def tensor_bytes(value: Any) -> int:
    """Bytes of the distinct tensors (keys, values, states) in a cache of any class.

    Scalars and vectors are ignored: they are counters and positions, not contents of the text.

    Example:
        >>> tensor_bytes({"keys": torch.zeros(2, 3), "length": torch.tensor(3)})
        24
    """
    return sum(dict(_tensors(value, set())).values())


def _tensors(value: Any, seen: set[int]) -> Iterable[tuple[int, int]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.ndim > 1:
            yield id(value), value.numel() * value.element_size()
        return
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for each in (*inside, *getattr(value, "__dict__", {}).values()):
        if not isinstance(each, type | nn.Module | torch.device | torch.dtype):
            yield from _tensors(each, seen)


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_model(model: nn.Module) -> None:
    if predicts_the_next_token(model):
        return
    name = type(model).__name__
    why = "is an encoder-decoder" if writes_text(model) else "does not write text"
    raise MeasurementError(
        f"{name} {why}: expected a causal language model of transformers, such as LlamaForCausalLM; time passes of any "
        "other network with profile"
    )


def _checked_prompt(prompt: Any, model: nn.Module, new_tokens: Any) -> dict[str, Tensor]:
    given = dict(prompt) if isinstance(prompt, Mapping) else {"input_ids": prompt}
    ids, mask = given.get("input_ids"), given.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not is_whole(ids):
        received = f"{list(ids.shape)} of {ids.dtype}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise MeasurementError(
            f"the prompt is {received}: expected integer token ids [batch, tokens], as a tensor or as 'input_ids' of a "
            "dict, such as tokenizer(text, return_tensors='pt')"
        )
    if not ids.numel():
        raise MeasurementError(f"the prompt is empty, {list(ids.shape)}: expected at least one token to continue")
    if ids.device.type == "meta":
        raise MeasurementError("the prompt is on the meta device, which computes nothing: expected a real device")
    if other := sorted({*given} - {"input_ids", "attention_mask"}):
        raise MeasurementError(f"the prompt contains {', '.join(other)}: expected input_ids and attention_mask only")
    if mask is not None:
        _check_mask(mask, ids)
    if not isinstance(new_tokens, int) or new_tokens < 2:
        raise MeasurementError(
            f"new_tokens={new_tokens!r}: expected a whole number of at least 2: the first token and one with a cache"
        )
    _check_sizes(ids, new_tokens, model)
    return {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})


def _check_mask(mask: Any, ids: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        received = list(mask.shape) if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise MeasurementError(
            f"attention_mask is {received} for input_ids {list(ids.shape)}: expected one entry per token"
        )
    if not bool(mask[:, -1].all()):
        raise MeasurementError(
            "the prompt is padded on the right, so the next token would follow the padding: expected padding on the "
            "left, as from tokenizer(texts, padding=True, padding_side='left')"
        )


def _check_sizes(ids: Tensor, new_tokens: int, model: Any) -> None:
    most = context_of(model)
    if most is not None and most < ids.shape[1] + new_tokens:
        raise MeasurementError(
            f"a prompt of {ids.shape[1]} tokens and {new_tokens} new ones exceed the model's limit of {most} "
            "(max_position_embeddings): expected a shorter prompt, or fewer new_tokens"
        )
    if found := foreign_tokens(model, ids):
        raise MeasurementError(f"the prompt has {found}")

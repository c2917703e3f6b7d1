"""A shallower depth that drafts tokens for a deeper one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..core.network import AdaptiveNetwork
from ..core.views import twin
from ..errors import DataError, SkipError
from ..hugging_face import keeps_a_state
from ..skip import parse_skip


@dataclass(frozen=True)
class Draft:
    """Which depth drafts, and how far ahead.

    Attributes:
        skip: the shallower depth.
        tokens: how many tokens it writes before each check.

    Raises:
        DataError: a number of tokens below 1.
    """

    skip: str
    tokens: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or self.tokens < 1:
            raise DataError(f"tokens={self.tokens!r} for a draft: expected a whole number, 1 or more")

    def run(
        self, network: AdaptiveNetwork, model: Any, ids: Tensor, mask: Tensor, options: Mapping[str, Any]
    ) -> Tensor:
        """`generate` of transformers with the draft as its assistant, for one row."""
        from transformers import GenerationConfig

        assistant: Any = twin(network.subnet(self.skip))  # the number of tokens is a setting of the assistant
        # Drafts keep the length they were measured with; by default transformers stops early if the draft is unsure.
        assistant.__dict__["generation_config"] = GenerationConfig(
            num_assistant_tokens=self.tokens,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
        assistant.__dict__["generate"] = partial(_drafted, assistant)
        return model.generate(ids, attention_mask=mask, assistant_model=assistant, **options)


_OF_ASSISTANT = ("do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "assistant_confidence_threshold")


def _drafted(assistant: Any, generation_config: Any, logits_processor: Any, **inputs: Any) -> Any:
    """`generate` of an assistant, called as transformers itself recommends.

    transformers passes the assistant both the verifier's settings and their logits processors, plus arguments besides
    the settings, and then warns about it (5.23). The processors suffice: they are the verifier's own, and take
    precedence.
    """
    from transformers import GenerationConfig, MinNewTokensLengthLogitsProcessor

    # transformers warns if the settings would create a processor that was also passed.
    if any(isinstance(each, MinNewTokensLengthLogitsProcessor) for each in logits_processor):
        inputs["min_new_tokens"] = 0
    own = {name: inputs.pop(name) for name in ("max_new_tokens", "min_new_tokens", "use_cache") if name in inputs}
    own |= {name: getattr(generation_config, name) for name in _OF_ASSISTANT}
    own |= {"top_k": 0} if generation_config.do_sample else {}  # the default is 50
    settings = GenerationConfig(**own, is_assistant=True, output_scores=True, return_dict_in_generate=True)
    return type(assistant).generate(assistant, generation_config=settings, logits_processor=logits_processor, **inputs)


def draft_of(network: AdaptiveNetwork, given: Any) -> Draft:
    if isinstance(given, Draft):
        return Draft(parse_skip(given.skip, len(network.stages)), given.tokens)
    return Draft(parse_skip(given, len(network.stages)))


def can_be_verified(network: AdaptiveNetwork) -> bool:
    """Whether a draft can be undone: a cache of keys can be truncated; a state, such as Mamba's, cannot."""
    return not keeps_a_state(network.model)


def check_verifies(network: AdaptiveNetwork) -> None:
    """Raise if a model cannot verify drafts."""
    if not can_be_verified(network):
        raise DataError(
            f"{type(network.model).__name__} keeps a state, from which no token can be removed, so drafts cannot be "
            "verified: leave draft out"
        )


def is_shallower(draft: str, verifier: str) -> bool:
    """Whether a depth skips everything that another skips, and more."""
    return draft != verifier and all(a == "T" or b == "F" for a, b in zip(draft, verifier, strict=True))


def check_shallower(draft: str, verifier: str) -> None:
    """Raise unless a draft skips more than its verifier."""
    if not is_shallower(draft, verifier):
        raise SkipError(
            f"the draft {draft} is not shallower than its verifier {verifier}: expected one that skips everything that "
            f"{verifier} skips, and more"
        )

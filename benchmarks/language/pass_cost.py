"""A training step of a language model's depths against the passes that it makes, by models built with these layers.

All clear their gradients right after the step, as the Trainer of transformers does: cleared between forward and
backward, the memory of the old ones is not there for the forward, which costs a plain model one or two percent, too.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from small_llama import llama
from torch import nn
from transformers import LlamaForCausalLM

import adaptive_depth as ad
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import interleaved, ratio, report

LAYERS = 8
SIZES = {"65 letters, width 128": (65, 128, 16), "32,000 tokens, width 256": (32000, 256, 4)}  # and texts in a batch


def stepping(model: nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        loss_of(x).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain(layers: int, x: torch.Tensor, words: int, width: int) -> Callable[[], None]:
    """The usual step of transformers: the model's own loss."""
    model: LlamaForCausalLM = llama(words, layers, width).train()
    return stepping(model, lambda x: model(input_ids=x, labels=x, use_cache=False).loss, x)


def passes(x: torch.Tensor, words: int, width: int) -> Callable[[], None]:
    """The super-net's pass and the base-net's, each with a step of its own."""
    network = ad.adapt(llama(words, LAYERS, width)).train()
    made = Passes(network, None, Schedule("SB", delay=0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def steps() -> None:
        for loss in made({"input_ids": x, "use_cache": False}, x):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def cost(words: int, width: int, texts: int, rounds: int) -> dict[str, float]:
    x = torch.randint(0, words, (texts, 128), generator=torch.Generator().manual_seed(0))
    base = LAYERS - sum(len(stage.skippable) for stage in ad.adapt(llama(words, LAYERS, width)).stages)
    runs = {
        "super-net alone": plain(LAYERS, x, words, width),
        "base-net alone": plain(base, x, words, width),
        "both passes": passes(x, words, width),
    }
    return ratio(interleaved(runs, rounds, warmup=2), ["both passes"], ["super-net alone", "base-net alone"])


def main(rounds: int = 25) -> None:
    found = {name: cost(*sizes, rounds) for name, sizes in SIZES.items()}
    result = {"target": "at most 1.00", "both passes": found}
    report("language_step_cost", result, passed=all(each["median"] <= 1.0 for each in found.values()))


if __name__ == "__main__":
    main()

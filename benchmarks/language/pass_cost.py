"""A training step of a language model's depths against the passes that it makes, by models built with these layers."""

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

LETTERS, LAYERS = 65, 8


def stepping(model: nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(x).backward()
        optimizer.step()

    return step


def plain(layers: int, x: torch.Tensor) -> Callable[[], None]:
    """The usual step of transformers: the model's own loss."""
    model: LlamaForCausalLM = llama(LETTERS, layers).train()
    return stepping(model, lambda x: model(input_ids=x, labels=x, use_cache=False).loss, x)


def passes(x: torch.Tensor) -> Callable[[], None]:
    """The super-net's pass and the base-net's, each with a step of its own."""
    network = ad.adapt(llama(LETTERS, LAYERS)).train()
    made = Passes(network, None, Schedule("SB", delay=0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def steps() -> None:
        for loss in made({"input_ids": x, "use_cache": False}, x):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def main(rounds: int = 15) -> None:
    x = torch.randint(0, LETTERS, (16, 128), generator=torch.Generator().manual_seed(0))
    base = LAYERS - sum(len(stage.skippable) for stage in ad.adapt(llama(LETTERS, LAYERS)).stages)
    runs = {"super-net alone": plain(LAYERS, x), "base-net alone": plain(base, x), "both passes": passes(x)}
    seconds = interleaved(runs, rounds, warmup=2)
    found = ratio(seconds, ["both passes"], ["super-net alone", "base-net alone"])
    report("language_step_cost", {"target": "at most 1.00", "both passes": found}, passed=found["median"] <= 1.0)


if __name__ == "__main__":
    main()

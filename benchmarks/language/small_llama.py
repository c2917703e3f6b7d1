"""A small Llama on characters: trained alone at each depth, and made adaptive in a fifth of that training.

    python small_llama.py TEXT WORK alone       train the networks to compare with (8 layers, and the base-net's 5)
    python small_llama.py TEXT WORK adaptive    make those of 8 layers adaptive; all variants, three seeds
    python small_llama.py TEXT WORK table           what both reached, as results/language_small.json and a table

TEXT is any text file of a megabyte; the last tenth of it is held out. Steps are counted in batches that are loaded.
"""

import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

import adaptive_depth as ad
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import report

SEEDS = (0, 1, 2)
STEPS, PART, BATCH, CONTEXT = 600, 0.2, 32, 128


class Text:
    """Characters of a file as numbers: the first nine tenths to learn from, the last held out."""

    def __init__(self, path: str | Path) -> None:
        text = Path(path).read_text()
        self.letters = sorted(set(text))
        number = {letter: place for place, letter in enumerate(self.letters)}
        every = torch.tensor([number[letter] for letter in text])
        cut = len(every) * 9 // 10
        self.learned, self.held_out = every[:cut], every[cut:]

    def batches(self, seed: int, number: int) -> list[Tensor]:
        """Random stretches, `[BATCH, CONTEXT]` each."""
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(len(self.learned) - CONTEXT, (number, BATCH), generator=generator)
        return [torch.stack([self.learned[p : p + CONTEXT] for p in row.tolist()]) for row in places]

    def judged(self, number: int = 40) -> list[Tensor]:
        """The same stretches of the held-out text for everyone, one behind the other."""
        rows = self.held_out[: number * 16 * CONTEXT].view(-1, CONTEXT)
        return list(rows.split(16))


def llama(letters: int, layers: int, width: int = 128, **changes: Any) -> LlamaForCausalLM:
    sizes = {"hidden_size": width, "intermediate_size": 8 * width // 3, "num_hidden_layers": layers}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=letters, **sizes, num_attention_heads=4, max_position_embeddings=512,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None, **changes,
        )
    )  # fmt: skip


def optimizer_of(model: nn.Module, steps: int, lr: float) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW with a warm-up of a twentieth and a cosine to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1, betas=(0.9, 0.95))
    warm = max(1, steps // 20)
    half = torch.pi / 2

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return float(torch.cos(torch.tensor(half * (step - warm) / max(1, steps - warm))) ** 2)

    return optimizer, LambdaLR(optimizer, factor)


def nats(model: nn.Module, batches: list[Tensor]) -> float:
    """The mean loss of a next character."""
    model.eval()
    with torch.no_grad():
        return sum(float(model(input_ids=x, labels=x).loss) for x in batches) / len(batches)


def train_alone(text: Text, model: LlamaForCausalLM, seed: int, steps: int, lr: float = 2e-3) -> LlamaForCausalLM:
    model.train()
    optimizer, schedule = optimizer_of(model, steps, lr)
    for number, x in enumerate(text.batches(seed, steps)):
        loss = model(input_ids=x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if number % 50 == 0:
            print(f"{number:>5} {float(loss):.3f}", flush=True)
    return model


def alone(text: Text, work: Path) -> None:
    for seed in SEEDS:
        for layers in (8, 5):
            name = work / f"alone_{layers}_{seed}"
            if not (name / "nats.json").exists():
                torch.manual_seed(seed)
                start = time.perf_counter()
                model = train_alone(text, llama(len(text.letters), layers), seed, STEPS)
                found = {"nats": nats(model, text.judged()), "seconds": time.perf_counter() - start}
                model.save_pretrained(name)
                (name / "nats.json").write_text(json.dumps(found))
                print(name, found, flush=True)


def made_adaptive(text: Text, start: Path, seed: int, steps: int, lr: float = 1e-3, **how: Any) -> dict[str, Any]:
    """Fine-tune all depths of a trained network.

    Arguments:
        steps: batches that are loaded.
        how: `skip_aware` and `schedule`.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(start)
    before = nats(model, text.judged())
    network = ad.adapt(model, skip_aware=how.get("skip_aware"))
    schedule = how.get("schedule") or Schedule("SBSBR", delay=4)
    passes = Passes(network.train(), None, schedule)
    optimizer, rate = optimizer_of(network, schedule.steps(steps), lr)
    start_time = time.perf_counter()
    for x in text.batches(100 + seed, steps):
        for loss in passes({"input_ids": x, "use_cache": False}, x):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
    seconds = time.perf_counter() - start_time
    judged = [{"input_ids": x, "use_cache": False} for x in text.judged()]
    found = {skip: float(torch.tensor(value).log()) for skip, value in ad.evaluate(network.eval(), judged).items()}
    return {"before": before, "nats": found, "steps": passes.steps_done, "batches": steps, "seconds": seconds}


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"steps": int(STEPS * PART), "lr": 2e-3},  # that of the training before
    "half the learning rate": {"steps": int(STEPS * PART)},
    "half the learning rate, doubled norms": {"steps": int(STEPS * PART), "skip_aware": True},
}


def adaptive(text: Text, work: Path) -> None:
    for name, variant in VARIANTS.items():
        for seed in SEEDS:
            file = work / f"{name.replace(' ', '_')}_{seed}.json"
            if not file.exists():
                found = made_adaptive(text, work / f"alone_8_{seed}", seed, **variant)
                file.write_text(json.dumps(found))
                print(name, seed, found, flush=True)
    for seed in SEEDS:  # the control: the network of 8 layers goes on alone, for as many batches
        file = work / f"alone_longer_{seed}.json"
        if not file.exists():
            model = LlamaForCausalLM.from_pretrained(work / f"alone_8_{seed}")
            train_alone(text, model, 100 + seed, int(STEPS * PART), lr=1e-3)
            file.write_text(json.dumps({"nats": nats(model, text.judged())}))
            print(file, file.read_text(), flush=True)


def table(_: Text, work: Path) -> None:
    def read(name: str) -> list[Any]:
        files = [work / f"{name}_{seed}.json" for seed in SEEDS]
        return [json.loads(file.read_text()) for file in files if file.exists()]

    alone_at = {
        n: [json.loads((work / f"alone_{n}_{s}" / "nats.json").read_text())["nats"] for s in SEEDS] for n in (8, 5)
    }
    longer = [each["nats"] for each in read("alone_longer")]
    result: dict[str, Any] = {"alone, nats": alone_at, "8 layers alone, as many batches more": longer}
    for name in VARIANTS:
        runs = read(name.replace(" ", "_"))
        depths = {skip: [run["nats"][skip] for run in runs] for skip in runs[0]["nats"]}
        ends = next(iter(depths)), list(depths)[-1]
        result[name] = {
            "nats": depths,
            "steps": runs[0]["steps"],
            "super-net above alone": mean(depths[ends[0]]) - mean(alone_at[8]),
            "base-net above alone": mean(depths[ends[1]]) - mean(alone_at[5]),
            "worst depth above the base-net": max(mean(each) for each in depths.values()) - mean(depths[ends[1]]),
        }
    found = result["default"]
    passed = found["super-net above alone"] <= 0.03 and found["base-net above alone"] <= 0.02
    report("language_small_llama", result, passed=passed and found["worst depth above the base-net"] <= 0.01)


if __name__ == "__main__":
    text, work = Text(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    {"alone": alone, "adaptive": adaptive, "table": table}[sys.argv[3]](text, work)

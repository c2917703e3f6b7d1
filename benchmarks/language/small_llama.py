"""A small Llama on characters: trained alone at each depth, and made adaptive in a fifth of that training.

    python small_llama.py TEXT WORK alone       train the networks to compare with (8 layers, and the base-net's 5)
    python small_llama.py TEXT WORK adaptive    make those of 8 layers adaptive; all variants, three seeds
    python small_llama.py WORK table            what both reached, as results/language_small.json and a table

TEXT is any text file of a megabyte; the last tenth of it is held out. Steps are counted in batches that are loaded.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

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


if __name__ == "__main__":
    text, work = Text(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    {"alone": alone}[sys.argv[3]](text, work)

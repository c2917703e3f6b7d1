"""Draft and verify: a Llama of 13 layers trained here, its own shallow depths as drafts, against decoding plainly.

    python drafting.py TEXT WORK train       train it with its depths (some 20 minutes on one core)
    python drafting.py TEXT WORK measure     1,000 prompts greedily, as many sampled: same text? how fast?

TEXT as for small_llama.py. The result is results/language_drafting.json.
"""

import sys
import time
from pathlib import Path

import torch
from small_llama import CONTEXT, Text, llama, optimizer_of
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

LAYERS, WIDTH, BATCHES, ROWS = 13, 160, 240, 16
SCHEDULE = Schedule("SBSBR", delay=2, teacher_share=0.5, teacher_start=BATCHES // 2)


def train(text: Text, work: Path) -> None:
    """Depths of 13 to 4 layers; in the second half they also learn what the deepest says, so that drafts agree."""
    torch.manual_seed(0)
    network = ad.adapt(llama(len(text.letters), LAYERS, WIDTH), mandatory=1, group_size=4).train()
    print(network.stages, flush=True)
    passes = Passes(network, None, SCHEDULE)
    optimizer, rate = optimizer_of(network, SCHEDULE.steps(BATCHES), lr=2e-3)
    start = time.perf_counter()
    for number, x in enumerate(text.batches(0, BATCHES)):
        for loss in passes({"input_ids": x[:ROWS], "use_cache": False}, x[:ROWS]):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
        if number % 25 == 0:
            print(f"{number} {float(loss.detach()):.3f} {time.perf_counter() - start:.0f} s", flush=True)
    judged = [{"input_ids": x, "use_cache": False} for x in text.judged()]
    found = {skip: float(torch.tensor(value).log()) for skip, value in ad.evaluate(network.eval(), judged).items()}
    print(found, f"{CONTEXT} characters", flush=True)
    network.save_pretrained(work / "drafting")


if __name__ == "__main__":
    text, work = Text(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    {"train": train}[sys.argv[3]](text, work)

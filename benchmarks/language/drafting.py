"""Draft and verify: a Llama of 13 layers trained here, its own shallow depths as drafts, against decoding plainly.

    python drafting.py TEXT WORK train       train it with its depths (some 20 minutes on one core)
    python drafting.py TEXT WORK measure     1,000 prompts, greedily and sampled: same text? how fast?

TEXT as for small_llama.py. The result is results/language_drafting.json.
"""

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from small_llama import CONTEXT, Text, llama, optimizer_of
from torch import nn

import adaptive_depth as ad
from adaptive_depth.language import choose_draft, generate
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import report

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


def measure(text: Text, work: Path, prompts: int = 1000, new: int = 24) -> None:
    """Every prompt plainly and drafted, one after the other: the ratio of all times, and whether texts are equal."""
    network = ad.load(work / "drafting", model=llama(len(text.letters), LAYERS, WIDTH))
    places = torch.linspace(0, len(text.held_out) - 64, prompts).long().tolist()
    rows = [text.held_out[place : place + 32].tolist() for place in places]
    tried = choose_draft(network, rows[:8], lengths=(3, 5, 8), new_tokens=new)
    print(tried, flush=True)
    draft = tried.draft or max(tried.speedups, key=tried.speedups.__getitem__)
    result: dict[str, Any] = {
        "targets": "lossless; 1.3 times the tokens a second",
        "draft": [draft.skip, draft.tokens],
        "speedups while choosing": {f"{each.skip} {each.tokens}": value for each, value in tried.speedups.items()},
    }
    for way, options in {"greedy": {"do_sample": False}, "sampled": {"do_sample": True, "top_k": 0}}.items():
        seconds: dict[str, list[float]] = {"plain": [], "drafted": []}
        surprise: dict[str, list[float]] = {"plain": [], "drafted": []}
        same = 0
        for number, row in enumerate(rows):
            texts = {}
            for name in ("plain", "drafted") if number % 2 else ("drafted", "plain"):
                start = time.perf_counter()
                asked = draft if name == "drafted" else None
                texts[name] = generate(network, [row], draft=asked, max_new_tokens=new, min_new_tokens=new, **options)
                seconds[name].append(time.perf_counter() - start)
                if way == "sampled":
                    surprise[name].append(nats_of(network, texts[name], len(row)))
            same += torch.equal(texts["plain"], texts["drafted"])
            if number % 50 == 49:
                print(way, number + 1, same, sum(seconds["plain"]) / sum(seconds["drafted"]), flush=True)
        found: dict[str, Any] = {
            "prompts": len(rows),
            "new tokens": new,
            "times as fast, all prompts": sum(seconds["plain"]) / sum(seconds["drafted"]),
            "times as fast, median prompt": median(a / b for a, b in zip(*seconds.values(), strict=True)),
        }
        if way == "greedy":
            found["equal texts"] = same
        else:  # texts of one distribution surprise the super-net alike
            plain, drafted = (torch.tensor(each) for each in surprise.values())
            scatter = float((plain.var() / len(plain) + drafted.var() / len(drafted)).sqrt())
            found["nats a token"] = {"plain": float(plain.mean()), "drafted": float(drafted.mean())}
            found["difference in standard errors"] = float(drafted.mean() - plain.mean()) / scatter
        result[way] = found
    greedy = result["greedy"]
    lossless = greedy["equal texts"] == prompts and abs(result["sampled"]["difference in standard errors"]) < 3
    report("language_drafting", result, passed=lossless and greedy["times as fast, all prompts"] >= 1.3)


def nats_of(network: ad.AdaptiveNetwork, ids: torch.Tensor, prompt: int) -> float:
    """The super-net's mean surprise at what follows a prompt."""
    with torch.no_grad():
        logits = network.subnet("F" * len(network.stages))(input_ids=ids, use_cache=False).logits
    return float(nn.functional.cross_entropy(logits[0, prompt - 1 : -1], ids[0, prompt:]))


if __name__ == "__main__":
    text, work = Text(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    if sys.argv[3] == "train":
        train(text, work)
    else:
        measure(text, work, *map(int, sys.argv[4:]))

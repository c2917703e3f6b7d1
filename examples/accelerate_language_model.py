"""A loop of your own with accelerate: all depths of a language model, its precision, accumulation and devices.

    pip install transformers
    python examples/accelerate_language_model.py --text book.txt --folder runs/text
    accelerate launch --num_processes 2 examples/accelerate_language_model.py --text book.txt --precision bf16

Without `--model` it is a small Llama on bytes, from random weights. The file is cut into rows of equally many tokens;
the last tenth of them is held out.

What accelerate prepares is `passes.module`, a pass as a module: called past its wrapper, a network would get neither
the precision nor the gradients of the other processes. A step may be accumulated over several batches; all of them
belong to one pass, so one sub-network. accelerate counts the parts of steps itself and would make a step early when
the loader ends, but passes of older batches still follow then: `sync_with_dataloader=False`.

Two processes on CPUs (gloo) are started by `torchrun --nproc-per-node 2 ... --cpu`: `accelerate launch --cpu` starts
one. A pass leaves parameters without a gradient, so DDP must look for them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    set_seed,
)
from torch.utils.data import DataLoader
from transformers_language_model import pretrained, show, small_llama

import adaptive_depth as ad


def rows_of(file: Path, tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """The whole text in rows of so many tokens; what is left over at its end is left out."""
    tokens = torch.tensor(tokenizer(file.read_text(encoding="utf-8"), verbose=False)["input_ids"])
    return [{"input_ids": row} for row in tokens[: len(tokens) // length * length].view(-1, length)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune all depths of a language model in a loop with accelerate.")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", help="a causal language model, as from_pretrained takes it; a small Llama without")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="0.003 of the small Llama, 0.00005 of a pretrained model")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--batch-size", type=int, default=16, help="rows that a process loads at once")
    parser.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    parser.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("--folder", type=Path, default=Path("runs/text"), help="for the network")
    parser.add_argument("--cpu", action="store_true", help="train on CPUs even where there is an accelerator")
    options = parser.parse_args()

    accelerator = Accelerator(
        cpu=options.cpu,
        mixed_precision=options.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(options.accumulate, sync_with_dataloader=False),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),  # one order, however many processes
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(0)
    model, tokenizer = pretrained(options.model) if options.model else small_llama()
    rows = rows_of(options.text, tokenizer, options.length)
    held_out = max(1, len(rows) // 10)
    network = ad.adapt(model, example={"input_ids": rows[0]["input_ids"][None]})
    judged = DataLoader(rows[-held_out:], options.batch_size)
    passes = ad.Passes(network.train(), schedule=ad.Schedule("SBSBR", delay=4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr or (5e-5 if options.model else 3e-3))
    loader = DataLoader(rows[:-held_out], options.batch_size, shuffle=True, drop_last=True)
    module, optimizer, loader = accelerator.prepare(passes.module, optimizer, loader)

    for epoch in range(options.epochs):
        # The same iterator so many times: the parts of a step.
        for parts in zip(*[iter(loader)] * options.accumulate, strict=False):
            for due in passes.load([passes.task.inputs(part) for part in parts]):
                for item in passes.items(due):
                    with accelerator.accumulate(module):
                        loss = passes.learn(item, module).loss
                        accelerator.backward(loss)  # divided by the number of parts
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(network.parameters(), 1.0)
                        optimizer.step()
                        optimizer.zero_grad()
                passes.done()
        accelerator.print(f"epoch {epoch + 1}, step {passes.steps_done}: loss {float(loss.detach()):.3f}")

    network.eval()
    if accelerator.is_main_process:
        show("after", ad.evaluate(network, judged))
        ad.save(network, options.folder / "network")
    accelerator.end_training()


if __name__ == "__main__":
    main()

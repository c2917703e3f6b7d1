"""The Trainer of Hugging Face fine-tunes all depths of a language model on a text file.

    pip install transformers
    python examples/transformers_language_model.py --text book.txt --epochs 3 --folder runs/text
    python examples/transformers_language_model.py --text book.txt --model HuggingFaceTB/SmolLM2-135M

Without `--model` it is a small Llama on bytes, from random weights. Paragraphs of the file are the texts; the last
tenth of them is held out. Batches are those of `DataCollatorForLanguageModeling(mlm=False)`, whose
labels of padding are -100.

No task is named: a causal language model of transformers learns the next token (`ad.tasks.LanguageModel`), and each
depth is judged by its perplexity. The Trainer is the one of train_with_transformers.py, which says what it does about
epochs, checkpoints and several devices.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train_with_transformers import DepthTrainer, KeepPasses
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint, set_seed

import adaptive_depth as ad


def small_llama() -> tuple[Any, Any]:
    """Four layers on bytes, and its tokenizer, which needs no file."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4}
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)), tokenizer


def pretrained(name: str) -> tuple[Any, Any]:
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        # Every token of its kind gets the label -100, so preferably one that texts do not have.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.bos_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(name), tokenizer


def texts_of(file: Path, tokenizer: Any, longest: int) -> list[dict[str, Any]]:
    """Its paragraphs as token ids; of one token alone nothing can be learned."""
    paragraphs = [part.strip() for part in file.read_text(encoding="utf-8").split("\n\n")]
    tokens = [tokenizer(part, truncation=True, max_length=longest) for part in paragraphs if part]
    return [dict(each) for each in tokens if len(each["input_ids"]) > 1]


def show(when: str, perplexity: Mapping[str, float]) -> None:
    print(when, *(f"{skip} {value:.2f}" for skip, value in perplexity.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune all depths of a language model on a text file.")
    parser.add_argument("--text", type=Path, required=True, help="a text file, with empty lines between paragraphs")
    parser.add_argument("--model", help="a causal language model, as from_pretrained takes it; a small Llama without")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="0.003 of the small Llama, 0.00005 of a pretrained model")
    parser.add_argument("--longest", type=int, default=128, help="tokens of a paragraph; more are cut off")
    parser.add_argument("--folder", type=Path, default=Path("runs/text"), help="for checkpoints and network")
    parser.add_argument("--cpu", action="store_true", help="train on CPUs even where there is an accelerator")
    options = parser.parse_args()

    set_seed(0)
    model, tokenizer = pretrained(options.model) if options.model else small_llama()
    texts = texts_of(options.text, tokenizer, options.longest)
    held_out = max(1, len(texts) // 10)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    example = {name: value for name, value in collate(texts[:2]).items() if name != "labels"}
    network = ad.adapt(model, example=example)
    passes = ad.Passes(network, schedule=ad.Schedule("SBSBR", delay=4))

    arguments = TrainingArguments(
        output_dir=str(options.folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        learning_rate=options.lr or (5e-5 if options.model else 3e-3),
        save_strategy="no",  # `KeepPasses` says when an epoch is over
        prediction_loss_only=True,  # the logits of all texts are large
        ignore_data_skip=True,  # the passes know themselves where they were
        ddp_find_unused_parameters=True,
        logging_steps=10,
        use_cpu=options.cpu,
        report_to="none",
        label_names=["labels"],
        remove_unused_columns=False,
    )
    trainer = DepthTrainer(
        network,
        passes,
        args=arguments,
        data_collator=collate,
        train_dataset=texts[:-held_out],
        eval_dataset=texts[-held_out:],
    )
    batches, judged = len(trainer.batches()), trainer.get_eval_dataloader()
    arguments.max_steps = passes.schedule.steps(options.epochs * batches)
    keep = KeepPasses(passes, batches)
    trainer.add_callback(keep)
    last = get_last_checkpoint(options.folder) if options.folder.is_dir() else None
    if last:
        keep.resume(Path(last), arguments)

    before = ad.evaluate(network, judged, across_processes=True)
    trainer.train(resume_from_checkpoint=last)
    after = ad.evaluate(network, judged, across_processes=True)
    if trainer.is_world_process_zero():
        show("before", before)
        show("after", after)
        ad.save(network, options.folder / "network")


if __name__ == "__main__":
    main()

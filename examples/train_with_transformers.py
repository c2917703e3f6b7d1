"""The Trainer of Hugging Face trains all depths of a network: a schedule of passes as the items of its loader.

    pip install transformers
    python examples/train_with_transformers.py --epochs 6 --folder runs/transformers

A small ResNet of transformers learns scikit-learn's handwritten digits. Each step of the Trainer is one pass of the
schedule: one sub-network, one batch, one optimiser step. What belongs to the loop is the Trainer's: learning rate,
clipped gradients, mixed precision (`bf16=True`), several devices, logs, checkpoints. Leave
`gradient_accumulation_steps` at 1: it would add up the gradients of different passes; larger batches do the same.

The same command resumes from the folder's last checkpoint, with the batches that wait for a later pass; on one CPU as
if there had been no break, bit for bit.

Several processes are started by `torchrun --nproc-per-node 2` (DDP, tried with two CPU processes and gloo:
`--cpu`). All make the same pass at the same time, each on its own images, because the schedule depends on its seed and
the number of the batch alone. A pass leaves parameters without a gradient, so DDP must look for them:
`ddp_find_unused_parameters=True`.

`--passes "algorithm 1"` trains with the paper's objective instead: super-net and base-net in one step.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    EvalPrediction,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint, set_seed

import adaptive_depth as ad
from adaptive_depth.data import configure, open_data

LOSSES = {"S": "super_net_loss", "B": "base_net_loss", "R": "intermediate_loss"}


class DepthTrainer(Trainer):
    """A Trainer whose model is what it wraps for precision and devices: one pass, or both of Algorithm 1.

    Called directly on a network inside `compute_loss`, an objective would go past those wrappers.

    Arguments:
        network: the network to train.
        passes: its schedule; None is Algorithm 1.
    """

    def __init__(self, network: ad.AdaptiveNetwork, passes: ad.Passes | None, **kwargs: Any) -> None:
        args = kwargs["args"]
        if passes and args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={args.gradient_accumulation_steps} would add up the gradients of "
                "different passes: expected 1, and a larger batch"
            )
        if args.gradient_checkpointing:
            raise ValueError("gradient_checkpointing=True: call model.gradient_checkpointing_enable() before adapt")
        super().__init__(model=passes.module if passes else ad.SelfDistillation(network), **kwargs)
        self.ends, self.passes = {"S": network.skips[0], "B": network.skips[-1]}, passes
        self.terms: dict[str, list[Tensor]] = defaultdict(list)  # losses by letter, since they were logged

    def batches(self) -> Any:
        """This process's share of the training images."""
        return super().get_train_dataloader()

    def get_train_dataloader(self) -> Any:
        return self._all_passes() if self.passes else self.batches()

    def _all_passes(self) -> Iterator[dict[str, Any]]:
        """Those of all epochs: the Trainer takes every epoch for as long as the first, which is a shorter one here."""
        assert self.passes is not None
        batches = self.batches()
        while self.passes.steps_done < self.args.max_steps:
            batches.set_epoch(self.passes.loaded // len(batches))
            yield from self.passes.over(batches)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - the loss is a mean over the batch
    ) -> Any:
        if "letter" in inputs:  # a pass; what is evaluated comes from another loader
            assert self.passes is not None
            loss = self.passes.learn(inputs, model).loss
            losses, outputs = {inputs["letter"]: loss}, {}
        elif self.passes is not None:
            labels = inputs.pop("labels")
            results = {letter: model(inputs, labels, skip) for letter, skip in self.ends.items()}
            losses = {letter: result.loss for letter, result in results.items()}
            outputs = {letter: result.output for letter, result in results.items()}
            loss = torch.stack(list(losses.values())).mean()
        else:
            both = model(inputs, inputs.pop("labels"))
            losses, outputs = {"S": both.super_net, "B": both.base_net}, {"S": both.super_output, "B": both.base_output}
            loss = both.total
        if model.training:
            for letter, each in losses.items():
                self.terms[letter].append(each.detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {LOSSES[letter]: torch.stack(losses).mean().item() for letter, losses in self.terms.items()}
            self.terms.clear()
        super().log(logs, start_time)


class KeepPasses(TrainerCallback):
    """Evaluates and saves after each epoch, and keeps in each checkpoint what the passes need, without pickle.

    Arguments:
        passes: those of the training.
        batches: in an epoch.
    """

    def __init__(self, passes: ad.Passes, batches: int) -> None:
        self.passes, self.batches = passes, batches

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        state.epoch = self.passes.loaded / self.batches
        ended = not self.passes.waiting and self.passes.loaded % self.batches == 0
        control.should_evaluate = control.should_save = ended

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        tensors, facts = self.passes.state()
        file = self._file(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", args)
        save_file(tensors, file, {"passes": json.dumps(facts)})

    def resume(self, checkpoint: Path, args: TrainingArguments) -> None:
        with safe_open(self._file(checkpoint, args), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            self.passes.put_state(tensors, json.loads(file.metadata()["passes"]))

    def _file(self, checkpoint: Path, args: TrainingArguments) -> Path:
        """Each process keeps batches of its own."""
        return checkpoint / f"passes-{args.process_index}-of-{args.world_size}.safetensors"


def accuracies(evaluated: EvalPrediction) -> dict[str, float]:
    """In percent, of the two outputs that `compute_loss` returned."""
    names = ("super_net_accuracy", "base_net_accuracy")
    hits = [output.argmax(axis=1) == evaluated.label_ids for output in evaluated.predictions]
    return {name: 100 * float(hit.mean()) for name, hit in zip(names, hits, strict=True)}


def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def build() -> ResNetForImageClassification:
    """The model before it is adapted; `ad.load(folder, build())` puts what was trained into another one."""
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, id2label=dict(enumerate("0123456789")), **shape))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train all depths of a small ResNet with Hugging Face's Trainer.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("runs/transformers"), help="for checkpoints and network")
    parser.add_argument("--passes", default="SBSBR", help="one round of the schedule, or 'algorithm 1'")
    parser.add_argument("--cpu", action="store_true", help="train on CPUs even where there is an accelerator")
    options = parser.parse_args()

    set_seed(0)
    model = build()
    data = configure("digits", model)
    train, test = open_data(data, "train"), open_data(data, "validation")
    network = ad.adapt(model, example={"pixel_values": torch.randn(2, 1, data.image_size, data.image_size)})
    # An epoch has but 21 batches here; where it has 33 or more, a delay of 16 is the better one.
    schedule = None if options.passes == "algorithm 1" else ad.Schedule(options.passes, delay=4)
    passes = ad.Passes(network, torch.nn.CrossEntropyLoss(), schedule) if schedule else None

    arguments = TrainingArguments(
        output_dir=str(options.folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=250,
        learning_rate=0.01,
        eval_strategy="no" if passes else "epoch",  # of passes, `KeepPasses` says when an epoch is over
        save_strategy="no" if passes else "epoch",
        ignore_data_skip=passes is not None,  # they know themselves where they were
        ddp_find_unused_parameters=True,
        logging_steps=10,
        use_cpu=options.cpu,
        report_to="none",
        label_names=["labels"],  # this and the next the Trainer would read off the signature of a model of its own
        remove_unused_columns=False,
    )
    trainer = DepthTrainer(
        network,
        passes,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracies,
    )
    last = get_last_checkpoint(options.folder) if options.folder.is_dir() else None
    if passes:
        batches = len(trainer.batches())
        arguments.max_steps = passes.schedule.steps(options.epochs * batches)
        keep = KeepPasses(passes, batches)
        trainer.add_callback(keep)
        if last:
            keep.resume(Path(last), arguments)
    trainer.train(resume_from_checkpoint=last)

    ad.calibrate(network, trainer.batches(), across_processes=True)
    accuracy = ad.evaluate(network, trainer.get_eval_dataloader(), across_processes=True)
    if trainer.is_world_process_zero():
        for skip, percent in accuracy.items():
            print(f"{skip} {percent:.1f} %")
        ad.save(network, options.folder / "network")

    shallow = Trainer(network.subnet("TTFF"), arguments, collate, eval_dataset=test)  # a model as it knows them
    predicted: Any = shallow.predict(test)
    print(f"The Trainer predicts with TTFF: {100 * (predicted[0].argmax(axis=1) == predicted[1]).mean():.1f} %")


if __name__ == "__main__":
    main()

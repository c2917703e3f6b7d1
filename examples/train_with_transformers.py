"""The Trainer of Hugging Face trains all depths of a network: the objective is its model.

    pip install transformers
    python examples/train_with_transformers.py --epochs 6 --folder runs/transformers

A small ResNet of transformers learns scikit-learn's handwritten digits. What belongs to the loop is the Trainer's:
schedule, clipped gradients, mixed precision (`bf16=True`), accumulation, several devices (started by `torchrun`), logs,
checkpoints. The same call again goes on from the folder's last checkpoint, on one CPU as if there had been no break,
bit for bit.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction, ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint, set_seed

import adaptive_depth as ad
from adaptive_depth.data import configure, open_data


class DistillationTrainer(Trainer):
    """A Trainer whose model is an `ad.SelfDistillation`: so both passes run in what it wraps for precision and devices.

    Called directly on a network inside `compute_loss`, the objective would go past those wrappers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.terms: list[Tensor] = []  # both losses of each step since they were logged

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - the loss is a mean over the batch
    ) -> Any:
        labels = inputs.pop("labels")
        losses = model(inputs, labels)
        if model.training:
            self.terms.append(torch.stack([losses.super_net, losses.base_net]).detach())
        outputs = {"super_net": losses.super_output, "base_net": losses.base_output}
        return (losses.total, outputs) if return_outputs else losses.total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            super_net, base_net = torch.stack(self.terms).mean(dim=0).tolist()
            logs |= {"super_net_loss": super_net, "base_net_loss": base_net}
            self.terms.clear()
        super().log(logs, start_time)


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
    options = parser.parse_args()

    set_seed(0)
    model = build()
    data = configure("digits", model)
    train, test = open_data(data, "train"), open_data(data, "validation")
    network = ad.adapt(model, example={"pixel_values": torch.randn(2, 1, data.image_size, data.image_size)})

    arguments = TrainingArguments(
        output_dir=str(options.folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=250,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        report_to="none",
        label_names=["labels"],  # this and the next the Trainer would read off the signature of a model of its own
        remove_unused_columns=False,
    )
    trainer = DistillationTrainer(
        model=ad.SelfDistillation(network),
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracies,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(options.folder) if options.folder.is_dir() else None)

    ad.calibrate(network, trainer.get_train_dataloader(), across_processes=True)
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

"""A loop of timm trains all depths of a network: a schedule of passes as a training task of timm.

    python examples/train_with_timm.py --epochs 6 --folder runs/timm

A small ResNet of timm learns scikit-learn's handwritten digits, written as a folder of images; `--data-dir` names
another one, with `train` and `validation` in it. Data, optimiser, learning rate, clipped gradients, mixed precision
(`--amp`), averaged weights and checkpoints are timm's, used as its script train.py uses them. Each step is one pass of
the schedule: one sub-network, one batch, one optimiser step. Do not accumulate gradients: it would add up those of
different passes; larger batches do the same.

The same command resumes after the last epoch that was saved, with the optimiser, the averaged weights and the batches
that wait for a later pass; on one CPU as if there had been no break, bit for bit.

`--passes "algorithm 1"` trains with the paper's objective instead: super-net and base-net in one step.

For timm's script itself, with all of its options and several processes, see examples/run_timm_script.py.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm import utils
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import load_task_ema_checkpoint, resume_task_checkpoint

import adaptive_depth as ad
from adaptive_depth.training.timm_task import TimmTask

INPUT_SIZE = (3, 32, 32)


def write_digits(folder: Path) -> Path:
    """1,297 images to train on and 500 others, a folder for each digit."""
    digits: Any = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / ("validation" if number < 500 else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(place / f"{number}.png")
    return folder


def loader_of(folder: Path, split: str, device: torch.device) -> Any:
    return create_loader(
        create_dataset("", root=folder, split=split),
        input_size=INPUT_SIZE,
        batch_size=64 if split == "train" else 250,
        is_training=split == "train",
        no_aug=True,  # a digit that is flipped is another one
        crop_pct=1.0,
        num_workers=0,
        persistent_workers=False,
        device=device,
    )


class Training:
    """The loop of train.py, for one process.

    Arguments:
        task: what is trained.
        loader, test: training and test images.
        epochs, folder, amp: as on the command line.
    """

    def __init__(self, task: TimmTask, loader: Any, test: Any, epochs: int, folder: Path, amp: bool) -> None:
        self.task, self.loader, self.test, self.epochs = task, task.over(loader), test, epochs
        self.device = task.device
        # As long as timm's; float16 alone needs a scaler, and CPUs have no float16 that is worth it.
        half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self.precision: Any = torch.autocast(self.device.type, half) if amp else nullcontext()
        self.scaler = utils.NativeScaler(self.device.type) if amp and half == torch.float16 else None
        trainable: Any = task.get_trainable_module()
        self.optimizer = create_optimizer_v2(trainable, "adamw", lr=0.01, weight_decay=0.01)
        # Not `len(self.loader)` for each epoch: the first one is shorter by the passes that have no batch yet.
        batches = epochs * len(loader)
        self.steps = task.passes.schedule.steps(batches) if task.passes else batches
        self.rates: Any = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=epochs,
            updates_per_epoch=math.ceil(self.steps / epochs),
            step_on_epochs=False,
        )[0]
        self.step = self.epoch = 0
        last = folder / "last.pth.tar"
        if last.exists():
            self.epoch = resume_task_checkpoint(task, last, self.optimizer, self.scaler) or 0
            self.step = task.passes.steps_done if task.passes else self.epoch * len(loader)
        task.setup_ema(
            decay=0.9
        )  # of each of the 2.5 steps that follow a batch: the root of what suits a plain network
        if last.exists():
            load_task_ema_checkpoint(task, last)
        self.saver = utils.CheckpointSaver(
            trainable, self.optimizer, amp_scaler=self.scaler, checkpoint_dir=str(folder), max_history=1, task=task
        )

    def run(self) -> None:
        for epoch in range(self.epoch, self.epochs):
            utils.random_seed(epoch)  # decides the order of the images, after a resume, too
            losses = self.train_one_epoch()
            accuracy = self.validate()
            self.saver.save_checkpoint(epoch, accuracy["TTTT"])
            said = [f"{name} {value:.4f}" for name, value in losses.items()]
            said += [f"{skip} {percent:.1f} %" for skip, percent in accuracy.items()]
            print(f"epoch {epoch + 1}, step {self.step}: {', '.join(said)}")

    def train_one_epoch(self) -> dict[str, float]:
        """The mean of each loss."""
        meters: Mapping[str, utils.AverageMeter] = defaultdict(utils.AverageMeter)
        self.task.train()
        self.optimizer.zero_grad()
        for images, labels in self.loader:
            self.rates.step_update(self.step)
            with self.precision:
                result = self.task(images, labels)
            self._backward(result["loss"])
            self.optimizer.zero_grad()
            self.step += 1
            self.task.update_ema(step=self.step)
            for name, loss in result.items():
                if name != "output":
                    meters[name].update(loss.item(), len(labels))
        return {name: meter.avg for name, meter in meters.items()}

    def _backward(self, loss: torch.Tensor) -> None:
        """Gradients, clipped, and the optimiser's step."""
        parameters = self.task.get_clip_parameters()
        if self.scaler is not None:
            self.scaler(loss, self.optimizer, clip_grad=1.0, parameters=parameters)
            return
        loss.backward()
        utils.dispatch_clip_grad(parameters, value=1.0)
        self.optimizer.step()

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Top-1 of super-net and base-net, with averaged weights."""
        network = self.task.get_eval_model(ema=True).eval()
        evaluators = {skip: self.task.create_evaluator() for skip in (network.skips[0], network.skips[-1])}
        for images, labels in self.test:
            for skip, evaluator in evaluators.items():
                with self.precision:
                    output = network(images, skip=skip)
                evaluator.update(output, labels)
        return {skip: evaluator.compute()["top1"] for skip, evaluator in evaluators.items()}


def build() -> ad.AdaptiveNetwork:
    return ad.adapt(ad.create_model("resnet18", num_classes=10, channels=(8, 16, 32, 64)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train all depths of a small ResNet in a loop of timm.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("runs/timm"), help="for checkpoints, digits and network")
    parser.add_argument("--data-dir", type=Path, help="a folder of images of ten classes; digits without")
    parser.add_argument("--passes", default="SBSBR", help="one round of the schedule, or 'algorithm 1'")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.folder.mkdir(parents=True, exist_ok=True)
    images = options.data_dir or write_digits(options.folder / "digits")
    loader, test = (loader_of(images, split, device) for split in ("train", "validation"))

    utils.random_seed(0)
    network = build().to(device)
    if options.passes == "algorithm 1":
        objective: Any = ad.SelfDistillation(network, torch.nn.CrossEntropyLoss())
    else:  # An epoch has but 20 batches here; where it has 33 or more, a delay of 16 is the better one.
        objective = ad.Passes(network, torch.nn.CrossEntropyLoss(), ad.Schedule(options.passes, delay=4))
    training = Training(TimmTask(objective), loader, test, options.epochs, options.folder, options.amp)
    training.run()

    averaged = training.task.get_eval_model(ema=True)
    ad.calibrate(averaged, loader)
    for skip, percent in ad.evaluate(averaged, test).items():
        print(f"{skip} {percent:.1f} %")
    ad.save(averaged, options.folder / "network")


if __name__ == "__main__":
    main()

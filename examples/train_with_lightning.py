"""PyTorch Lightning trains all depths of a network: a schedule of passes as the items of its loader.

    pip install pytorch-lightning
    python examples/train_with_lightning.py --epochs 6 --folder runs/lightning

A small ResNet of timm learns scikit-learn's handwritten digits. Each training step of Lightning is one pass of the
schedule: one sub-network, one batch, one optimiser step. What belongs to the loop is Lightning's: clipped gradients,
mixed precision (`precision="bf16-mixed"`), several devices, logs, checkpoints. Leave `accumulate_grad_batches` at 1:
it would add up the gradients of different passes; larger batches do the same.

The same command resumes from the folder's last checkpoint, with the optimiser, the learning rate and the batches that
wait for a later pass; on one CPU as if there had been no break, bit for bit. With more `--epochs` it trains for longer.

With `--devices 2` two processes train together (DDP, tried with two CPU processes and gloo). All make the same pass at
the same time, each on its own images, because the schedule depends on its seed and the number of the batch alone. A
pass leaves parameters without a gradient, so DDP must look for them: `strategy="ddp_find_unused_parameters_true"`.

`--passes "algorithm 1"` trains with the paper's objective instead: super-net and base-net in one step.
"""

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import adaptive_depth as ad
from adaptive_depth.data import configure, open_data

LOSSES = {"S": "super_net_loss", "B": "base_net_loss", "R": "intermediate_loss"}


class AdaptiveClassifier(pl.LightningModule):
    """Trains all depths, validates super-net and base-net; tests and predicts at the depth that `skip` says.

    Arguments:
        network: the network to train.
        images: the training set.
        lr: the learning rate of the first step; it falls linearly to 0.
        schedule: which sub-network learns when; None is Algorithm 1.
    """

    def __init__(
        self, network: ad.AdaptiveNetwork, images: Dataset[Any], lr: float, schedule: ad.Schedule | None
    ) -> None:
        super().__init__()
        self.passes = ad.Passes(network, torch.nn.CrossEntropyLoss(), schedule) if schedule else None
        # Both hold the network, which as an attribute of its own would be saved twice.
        self.objective = self.passes.module if self.passes else ad.SelfDistillation(network)
        self.images, self.lr = images, lr
        self.skip = network.skips[0]

    @property
    def network(self) -> ad.AdaptiveNetwork:
        return self.objective.network

    # -- data -------------------------------------------------------------------------------------------------------

    def batches(self) -> DataLoader[Any]:
        """This process's share of the training images, in an order that the number of the epoch decides."""
        # Lightning would divide a DataLoader among processes by itself, but not one inside another loader.
        sampler = DistributedSampler(self.images, self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(self.images, batch_size=64, sampler=sampler, drop_last=True)

    def train_dataloader(self) -> Any:
        return self.passes.over(self.batches()) if self.passes else self.batches()

    # -- steps ------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any) -> Tensor:
        if self.passes is None:
            losses = self.objective(*batch)
            terms = {LOSSES["S"]: losses.super_net, LOSSES["B"]: losses.base_net}
            return self._logged(losses.total, terms, len(batch[1]))
        loss = self.passes.learn(batch).loss
        return self._logged(loss, {LOSSES[batch["letter"]]: loss}, len(batch["y"]))

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._log_accuracy("super_net_accuracy", batch, self.network.skips[0])
        self._log_accuracy("base_net_accuracy", batch, self.network.skips[-1])

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._log_accuracy("test_accuracy", batch, self.skip)

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.network(batch[0], skip=self.skip).argmax(dim=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        batches = (self.trainer.max_epochs or 0) * len(self.batches())
        # Not Lightning's `estimated_stepping_batches`, for which all epochs are as long as the first.
        steps = self.passes.schedule.steps(batches) if self.passes else batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _logged(self, loss: Tensor, terms: dict[str, Tensor], size: int) -> Tensor:
        self.log_dict({"train_loss": loss, **terms}, on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def _log_accuracy(self, name: str, batch: tuple[Tensor, Tensor], skip: str) -> None:
        x, y = batch
        hits = self.network(x, skip=skip).argmax(dim=1) == y
        self.log(name, 100 * hits.float().mean(), batch_size=len(y), prog_bar=True, sync_dist=True)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.passes is None:
            return
        kept: list[Any] = [self.passes.state()]
        if self.trainer.world_size > 1:  # the first process writes the file, and each keeps batches of its own
            kept = [None] * self.trainer.world_size
            dist.all_gather_object(kept, self.passes.state())
        checkpoint["passes"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.passes is None:
            return
        kept = checkpoint["passes"]
        if len(kept) != self.trainer.world_size:
            raise ValueError(f"a checkpoint of {len(kept)} processes: resume it with --devices {len(kept)}")
        self.passes.put_state(*kept[self.trainer.global_rank])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train all depths of a small ResNet with PyTorch Lightning.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning"), help="for checkpoints, logs and network")
    parser.add_argument("--passes", default="SBSBR", help="one round of the schedule, or 'algorithm 1'")
    parser.add_argument("--devices", type=int, default=1, help="processes that train together")
    options = parser.parse_args()

    pl.seed_everything(0)
    model = ad.create_model("resnet18", num_classes=10, in_chans=1, channels=(8, 16, 32, 64))  # load builds it again
    data = configure("digits", model)
    # An epoch has but 20 batches here; where it has 33 or more, a delay of 16 is the better one.
    schedule = None if options.passes == "algorithm 1" else ad.Schedule(options.passes, delay=4)
    module = AdaptiveClassifier(ad.adapt(model), open_data(data, "train"), lr=0.01, schedule=schedule)
    test = DataLoader(open_data(data, "validation"), batch_size=250)

    trainer = pl.Trainer(
        max_epochs=options.epochs,
        devices=options.devices,
        strategy="ddp_find_unused_parameters_true" if options.devices > 1 else "auto",
        reload_dataloaders_every_n_epochs=1,  # the first epoch is shorter by the passes that have no batch yet
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=CSVLogger(options.folder),
        callbacks=ModelCheckpoint(options.folder / "checkpoints", save_last=True),
    )
    trainer.fit(module, val_dataloaders=test, ckpt_path="last")  # starts from scratch where there is none, and says so

    network = module.network
    ad.calibrate(network, module.batches(), across_processes=True)
    if trainer.is_global_zero:  # of several processes the first
        for skip, accuracy in ad.evaluate(network, test).items():
            print(f"{skip} {accuracy:.1f} %")
        ad.save(network, options.folder / "network")

    module.skip = "TTFF"
    tested = trainer.test(module, test)[0]
    print(f"Lightning tests {module.skip}: {tested['test_accuracy']:.1f} %")


if __name__ == "__main__":
    main()

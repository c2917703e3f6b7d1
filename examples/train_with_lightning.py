"""PyTorch Lightning trains all depths of a network: the objective in a LightningModule.

    pip install pytorch-lightning
    python examples/train_with_lightning.py --epochs 6 --folder runs/lightning

A small ResNet of timm learns scikit-learn's handwritten digits. What belongs to the loop is Lightning's: clipped
gradients, mixed precision (`precision="bf16-mixed"`), several devices, logs, checkpoints. The same call again goes on
from the folder's last checkpoint, with optimiser and schedule, and with more `--epochs` trains for longer. Lightning
keeps no random numbers: after a break, images come in another order than without it.
"""

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

import adaptive_depth as ad
from adaptive_depth.data import configure, open_data


class AdaptiveClassifier(pl.LightningModule):
    """Trains and validates super-net and base-net; tests and predicts at the depth that `skip` says."""

    def __init__(self, network: ad.AdaptiveNetwork, lr: float) -> None:
        super().__init__()
        self.objective = ad.SelfDistillation(network)  # holds the network, which as an attribute would be saved twice
        self.lr = lr
        self.skip = network.skips[0]

    @property
    def network(self) -> ad.AdaptiveNetwork:
        return self.objective.network

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses = self.objective(*batch)
        terms = {"train_loss": losses.total, "super_net_loss": losses.super_net, "base_net_loss": losses.base_net}
        self.log_dict(terms, on_step=False, on_epoch=True, prog_bar=True)
        return losses.total

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._log_accuracy("super_net_accuracy", batch, self.network.skips[0])
        self._log_accuracy("base_net_accuracy", batch, self.network.skips[-1])

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._log_accuracy("test_accuracy", batch, self.skip)

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.network(batch[0], skip=self.skip).argmax(dim=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _log_accuracy(self, name: str, batch: tuple[Tensor, Tensor], skip: str) -> None:
        x, y = batch
        hits = self.network(x, skip=skip).argmax(dim=1) == y
        self.log(name, 100 * hits.float().mean(), batch_size=len(y), prog_bar=True, sync_dist=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train all depths of a small ResNet with PyTorch Lightning.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning"), help="for checkpoints, logs and network")
    options = parser.parse_args()

    pl.seed_everything(0)
    model = ad.create_model("resnet18", num_classes=10, in_chans=1, channels=(8, 16, 32, 64))  # load builds it again
    data = configure("digits", model)
    train = DataLoader(open_data(data, "train"), batch_size=64, shuffle=True, drop_last=True)
    test = DataLoader(open_data(data, "validation"), batch_size=250)
    module = AdaptiveClassifier(ad.adapt(model), lr=0.01)

    trainer = pl.Trainer(
        max_epochs=options.epochs,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=CSVLogger(options.folder),
        callbacks=ModelCheckpoint(options.folder / "checkpoints", save_last=True),
    )
    trainer.fit(module, train, test, ckpt_path="last")  # where there is none, it says so and starts from scratch

    network = module.network
    ad.calibrate(network, train)
    if trainer.is_global_zero:  # of several processes the first
        for skip, accuracy in ad.evaluate(network, test).items():
            print(f"{skip} {accuracy:.1f} %")
        ad.save(network, options.folder / "network")

    module.skip = "TTFF"
    tested = trainer.test(module, test)[0]
    print(f"Lightning tests {module.skip}: {tested['test_accuracy']:.1f} %")


if __name__ == "__main__":
    main()

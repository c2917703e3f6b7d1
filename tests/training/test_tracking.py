"""What trackers are told, read back from the files that they write."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.training.history import Epoch, Progress
from adaptive_depth.training.tracking import tracking

RECIPE = ad.Recipe(passes="algorithm 1", epochs=2, lr=0.05, milestones=(3, 4), model="resnet18")
EPOCH = Epoch(1, 0.1, 0.5, 80.0, 0.2, 70.0, 1000.0, 0.25, {"FF": 81.0, "TT": 72.0})


def progress(step: int) -> Progress:
    return Progress(1, 2, step, 100, lambda: EPOCH)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard(tmp_path: Path, nets) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network = nets.chain()
    batches = [(torch.randn(4, 3, 8, 8), torch.arange(4)) for _ in range(60)]
    told = []
    with tracking(["tensorboard", "tensorboard"], tmp_path, RECIPE) as watch:
        history = ad.train(
            network, batches, RECIPE, validation=batches[:1], validate_every=1,
            on_step=lambda now: (watch.on_step(now), told.append(now)), on_epoch=watch.on_epoch,
        )  # fmt: skip
    read = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    read.Reload()
    for name in ("loss", "accuracy", "base_loss", "base_accuracy", "lr", "images_per_s", "waiting"):
        scalars = read.Scalars(f"epoch/{name}")
        assert [scalar.step for scalar in scalars] == [60, 120]
        for scalar, epoch in zip(scalars, history.epochs, strict=True):
            assert scalar.value == pytest.approx(getattr(epoch, name), rel=1e-6)
    assert [scalar.step for scalar in read.Scalars("running/base_loss")] == [50, 100]
    for skip in ("FF", "TT"):
        scalars = read.Scalars(f"validation/{skip}")
        assert [scalar.value for scalar in scalars] == [epoch.validation[skip] for epoch in history.epochs]
    [file] = (tmp_path / "trackers" / "tensorboard").glob("*/hparams.yml")
    assert "model: resnet18" in file.read_text()
    assert [(now.epoch, now.epochs, now.step, now.steps) for now in told[58:62]] == [
        (1, 2, 59, 120), (1, 2, 60, 120), (2, 2, 61, 120), (2, 2, 62, 120),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "flowers"
    with tracking(["wandb"], run, RECIPE) as watch:
        watch.on_step(progress(49))
        watch.on_step(progress(50))
        watch.on_epoch(EPOCH)
    [file] = run.glob("trackers/wandb/offline-run-*/run-*.wandb")
    told = (b"epoch/base_loss", b"running/accuracy", b"validation/TT", b"resnet18", b"flowers")
    deadline = time.monotonic() + 60  # a process of its own writes the file
    while missing := [part for part in told if part not in file.read_bytes()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)


def test_no_tracker_asks_for_nothing(tmp_path: Path) -> None:
    def never() -> Epoch:
        raise AssertionError("waited for the device without a need")

    with tracking([], tmp_path / "run", RECIPE) as watch:
        watch.on_step(Progress(1, 2, 50, 100, never))
        watch.on_epoch(EPOCH)
    assert not (tmp_path / "run").exists()


def test_other_processes_tell_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("adaptive_depth.core.distributed.Distributed.is_first", False)
    with tracking(["tensorboard"], tmp_path / "run", RECIPE) as watch:
        watch.on_epoch(EPOCH)
    assert not os.listdir(tmp_path)  # noqa: PTH208


def test_what_cannot_be_tracked(tmp_path: Path, monkeypatch) -> None:
    with (
        pytest.raises(ad.TrainingError, match=r"tracker 'tensorbord' is unknown: expected one of .*tensorboard, wandb"),
        tracking(["tensorbord"], tmp_path, RECIPE),
    ):
        pass
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with (
        pytest.raises(ad.TrainingError, match=r"tracker 'mlflow' is not installed .*: pip install mlflow"),
        tracking(["mlflow"], tmp_path, RECIPE),
    ):
        pass


def test_progress_prints_without_its_function() -> None:
    assert repr(progress(3)) == "Progress(epoch=1, epochs=2, step=3, steps=100)"
    assert json.dumps(progress(3).so_far().validation) == '{"FF": 81.0, "TT": 72.0}'

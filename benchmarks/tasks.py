"""Five tasks on real data: an adaptive network against networks of the same depths, each trained alone.

Small residual networks from random weights; all networks of a case have the same recipe. Its learning rate is the best
one, on validation data, for the super-net trained alone; test data decide nothing. Targets follow from the data and are
made on the fly: see `collages`, `pasted` and `turned`.

The data are CIFAR-10 (`--data`, as `paper/images.py` takes it), CamVid (`--camvid`, an .npz with `train_images`
`[n, height, width, 3]`, `train_labels` `[n, height, width]` of 11 classes, 11 = ignored, and the same of `val` and
`test`) and the Free Spoken Digit Dataset by Zohar Jackson et al., github.com/Jakobovski/free-spoken-digit-dataset
(`--audio`, its folder `recordings`). Each run writes a file of its own, and a run whose file is there is not repeated.
"""

import argparse
import json
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import RESULTS, machine, said, write
from paper.images import Part, load, normalised
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import adaptive_depth as ad

DEPTHS = ("FFF", "TTF", "TTT")  # super-net, an intermediate sub-network, base-net
RATES = (0.06, 0.2)
WIDTHS = (16, 32, 64)
SAMPLES = 4096  # half a second
Batch = tuple[Tensor, Any]
Parts = dict[str, tuple[int, Callable[[Tensor], Batch]]]  # by part: how many samples, and a batch from their numbers


class Block(nn.Module):
    def __init__(self, width: int, conv: Any, norm: Any) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, width, 3, 1, 1, bias=False), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3, 1, 1, bias=False), norm(width)
        nn.init.zeros_(self.norm2.weight)  # a squared error diverges where every block adds to it from the first step

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Residual(nn.Module):
    """Three stages of three blocks; the head takes the output of each stage."""

    def __init__(self, head: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if channels == 1 else (nn.Conv2d, nn.BatchNorm2d)

        def unit(before: int, width: int, by: int) -> list[nn.Module]:
            return [conv(before, width, 2 * by - 1, by, by - 1, bias=False), norm(width), nn.ReLU()]

        self.stem = nn.Sequential(*unit(channels, WIDTHS[0], stride))
        self.stages = nn.ModuleList()
        for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False):
            down = unit(before, width, 2) if width > before else []
            self.stages.append(nn.Sequential(*down, *(Block(width, conv, norm) for _ in range(3))))
        self.head = head

    def forward(self, x: Tensor) -> Any:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.head(maps)


class Pooled(nn.Module):
    """Linear heads; of each the number of outputs, and the mean and the standard deviation of what they predict."""

    def __init__(self, **outputs: tuple[int, float, float]) -> None:
        super().__init__()
        self.ranges = {name: each[1:] for name, each in outputs.items()}
        self.heads = nn.ModuleList(nn.Linear(WIDTHS[-1], each[0]) for each in outputs.values())

    def forward(self, maps: list[Tensor]) -> Any:
        pooled, both = maps[-1].flatten(2).mean(2), zip(self.ranges.items(), self.heads, strict=True)
        found = {name: at + scale * head(pooled) for (name, (at, scale)), head in both}
        return found if len(found) > 1 else next(iter(found.values()))


class PerPixel(nn.Module):
    """Logits of every stage, added up in the resolution of the first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in WIDTHS)

    def forward(self, maps: list[Tensor]) -> Tensor:
        logits = [head(x) for head, x in zip(self.heads, maps, strict=True)]
        return torch.stack([F.interpolate(x, logits[0].shape[2:], mode="bilinear") for x in logits]).sum(0)


@dataclass(frozen=True)
class Batches:
    """An epoch's batches of samples in random order, made anew at each pass."""

    total: int
    make: Callable[[Tensor], Batch]
    count: int = 3000
    size: int = 50

    def __len__(self) -> int:
        return min(self.count, self.total) // self.size

    def __iter__(self) -> Iterator[Batch]:
        for index in torch.randperm(self.total).split(self.size)[: len(self)]:
            yield self.make(index)


def _mirrored(x: Tensor) -> Tensor:
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def collages(part: Part, index: Tensor) -> Batch:
    """Four photographs at half size, and which of the ten classes are among them."""
    chosen = torch.cat([index[None], torch.randint(len(part), (3, len(index)))])
    small = [_mirrored(F.avg_pool2d(normalised(part.images[each]), 2)) for each in chosen]
    target = torch.zeros(len(index), 10).scatter_(1, part.labels[chosen].T, 1.0)
    return torch.cat([torch.cat(small[:2], dim=2), torch.cat(small[2:], dim=2)], dim=3), target


def pasted(part: Part, index: Tensor) -> Batch:
    """A photograph, 8 to 24 px high and wide, at a random place of another one; the target is its side in px."""
    x = normalised(part.images[torch.cat([index, torch.randint(len(part), (len(index),))])])
    ground, above = _mirrored(x).chunk(2)
    side = 8 + 16 * torch.rand(len(index))
    zoom = 32 / side
    middle = (2 * torch.rand(2, len(index)) - 1) * (1 - side / 32)  # where the frame is -1 to 1
    theta = torch.zeros(len(index), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = (-zoom * middle).T
    grid = F.affine_grid(theta, list(ground.shape), align_corners=False)
    covered = (grid.abs() <= 1).all(-1)[:, None]
    return torch.where(covered, F.grid_sample(above, grid, padding_mode="border", align_corners=False), ground), side


def turned(part: Part, index: Tensor) -> Batch:
    """A photograph, turned by up to 45° and cropped so that no corner shows; its class, and the angle in degrees."""
    x = _mirrored(normalised(part.images[index]))
    angle = 45 * (2 * torch.rand(len(index)) - 1)
    cos, sin, zero = angle.deg2rad().cos() / 2**0.5, angle.deg2rad().sin() / 2**0.5, torch.zeros(len(index))
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return x, {"kind": part.labels[index], "turn": angle}


def of_photographs(make: Callable[[Part, Tensor], Batch]) -> Callable[[Path], Parts]:
    return lambda file: {name: (len(part), partial(make, part)) for name, part in load(file, 32, "cpu").items()}


def streets(images: Tensor, labels: Tensor, augment: bool, index: Tensor) -> Batch:
    """Pictures and the classes of their pixels; for training mirrored, and cropped to 60 to 100 % of their sides."""
    x, y = normalised(images[index]), labels[index]
    if augment:
        both = _mirrored(torch.cat([x, y[:, None].float()], dim=1))
        size = torch.tensor(x.shape[2:])
        high, wide = ((0.6 + 0.4 * torch.rand(())) * size).long().tolist()
        top, left = (int(torch.randint(room, ())) for room in (size - torch.tensor([high, wide]) + 1).tolist())
        crop = both[:, :, top : top + high, left : left + wide]
        x = F.interpolate(crop[:, :3], x.shape[2:], mode="bilinear", align_corners=False)
        y = F.interpolate(crop[:, 3:], x.shape[2:], mode="nearest")[:, 0].long()
    return x, y


def of_streets(file: Path) -> Parts:
    packed, parts = np.load(file), {}
    for name, own in (("train", "train"), ("validation", "val"), ("test", "test")):
        images, labels = (torch.from_numpy(packed[f"{own}_{what}"]) for what in ("images", "labels"))
        parts[name] = len(labels), partial(streets, images.permute(0, 3, 1, 2), labels.long(), name == "train")
    return parts


def digits(waves: Tensor, labels: Tensor, augment: bool, index: Tensor) -> Batch:
    """Recordings of half a second `[batch, 1, samples]`, for training moved by up to 50 ms, and the digits."""
    x = waves[index, None]
    return x.roll(int(torch.randint(-400, 401, ())), dims=-1) if augment else x, labels[index]


def of_digits(folder: Path) -> Parts:
    """By the number of the recording: 0 to 4 are the test data, as its authors have it; 5 to 9 validate here."""
    found: dict[str, list[tuple[Tensor, int]]] = {"train": [], "validation": [], "test": []}
    for file in sorted(folder.glob("*_*_*.wav")):
        digit, _, number = file.stem.split("_")
        with wave.open(str(file)) as opened:
            x = torch.from_numpy(np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32))
        x = F.pad(x[:SAMPLES], (0, max(0, SAMPLES - len(x))))
        part = "test" if int(number) < 5 else "validation" if int(number) < 10 else "train"
        found[part].append((x / x.std(), int(digit)))
    if not all(found.values()):
        raise SystemExit(f"--audio {folder}: expected files such as 7_jackson_32.wav, numbered 0 to 49")
    whole = {name: (torch.stack([x for x, _ in own]), torch.tensor([y for _, y in own])) for name, own in found.items()}
    return {name: (len(own[1]), partial(digits, *own, name == "train")) for name, own in whole.items()}


@dataclass(frozen=True)
class Case:
    """A task, a network for it and its recipe.

    Attributes:
        source: the argument with the path that `parts` takes.
        judges: the task, once for each number that it is judged by; the learning rate is chosen by the first.
        count: samples of an epoch.
    """

    title: str
    source: str
    parts: Callable[[Path], Parts]
    judges: tuple[ad.tasks.Task, ...]
    network: Callable[[], nn.Module]
    count: int = 10240
    epochs: int = 3
    batch_size: int = 64

    def data(self, source: Path | None) -> tuple[Batches, dict[str, list[Batch]]]:
        """Training batches, and by part those held out, which are always the same."""
        if source is None or not source.exists():
            raise SystemExit(f"--{self.source} {source}: expected the data of {self.title!r}")
        parts, held_out = self.parts(source), {}
        for name in ("validation", "test"):
            torch.manual_seed(0)
            held_out[name] = list(Batches(*parts[name], size=1 if parts[name][0] % 50 else 50))
        return Batches(*parts["train"], self.count, self.batch_size), held_out


def scaled(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean squared error in units of `scale`, the targets' standard deviation: about 1 before training."""
    return lambda output, target: F.mse_loss(output / scale, target / scale)


_TWO = {"kind": ad.tasks.Classification(), "turn": ad.tasks.Regression(scaled(26), unit="°")}
CASES = {
    "labels": Case(
        "Which of ten classes are in a collage of four photographs (CIFAR-10)", "data",
        of_photographs(collages), (ad.tasks.MultiLabel(),), lambda: Residual(Pooled(labels=(10, 0, 1)), 3, 3),
    ),
    "number": Case(
        "Side of a photograph pasted on another one (CIFAR-10)", "data", of_photographs(pasted),
        (ad.tasks.Regression(scaled(4.6), unit="px"),), lambda: Residual(Pooled(side=(1, 16, 4.6)), 3, 3),
    ),
    "pixels": Case(
        "Classes of pixels (CamVid)", "camvid", of_streets,
        (ad.tasks.Segmentation(ignore_index=11),), lambda: Residual(PerPixel(11), 3, 4), 367, 12, 8,
    ),
    "two heads": Case(
        "Class and angle of a turned photograph (CIFAR-10)", "data", of_photographs(turned),
        tuple(ad.tasks.Heads(_TWO, judged_by=name) for name in _TWO),
        lambda: Residual(Pooled(kind=(10, 0, 1), turn=(1, 0, 26)), 3, 3),
    ),
    "sound": Case(
        "Spoken digits (Free Spoken Digit Dataset), a 1-D network", "audio", of_digits,
        (ad.tasks.Classification(),), lambda: Residual(Pooled(digit=(10, 0, 1)), 1, 32), 2400, 10, 32,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: of the adaptive network, or of a plain network of the depth `skip`."""

    case: str
    seed: int
    lr: float
    skip: str = ""


@dataclass(frozen=True)
class Place:
    """Where data come from, and where results go to."""

    results: Path
    sources: Mapping[str, Path | None]

    def file(self, run: Run) -> Path:
        method = f"alone_{run.skip}" if run.skip else "adaptive"
        return self.results / f"{run.case.replace(' ', '-')}_{method}_lr-{run.lr:g}_seed-{run.seed}.json"

    def found(self, run: Run) -> dict[str, Any] | None:
        return json.loads(self.file(run).read_text()) if self.file(run).exists() else None


def do(run: Run, place: Place) -> None:
    """Train and measure a network, and write its file; nothing is done where that is there."""
    if place.file(run).exists():
        return
    case = CASES[run.case]
    recipe = ad.Recipe(epochs=case.epochs, batch_size=case.batch_size, lr=run.lr, seed=run.seed, clip_grad=1.0)
    batches, held_out = case.data(place.sources[case.source])
    torch.manual_seed(run.seed)
    network: nn.Module = ad.adapt(case.network(), example=next(iter(batches))[0][:2], mandatory=1)
    network = network.extract(run.skip) if run.skip else network
    began = time.process_time()
    history = ad.train(network, batches, recipe, task=case.judges[0])
    seconds = time.process_time() - began
    torch.manual_seed(run.seed)
    if isinstance(network, ad.AdaptiveNetwork):
        ad.calibrate(network, batches)
    else:
        update_bn(batches, network)
    counts = {part: sum(len(x) for x, _ in own) for part, own in held_out.items()}
    write(place.file(run), {
        "run": asdict(run),
        "recipe": recipe.to_json(),
        "quality": measured(network, run, held_out),
        "loss by epoch": [epoch.loss for epoch in history.epochs],
        "training, seconds of CPU time": round(seconds, 1),
        "samples": {"train": batches.total, "epoch": len(batches) * batches.size, **counts},
        "machine": machine(),
    })  # fmt: skip
    print(f"{place.file(run).stem}: {seconds:.0f} s of CPU time", flush=True)


@torch.no_grad()
def measured(network: nn.Module, run: Run, held_out: Mapping[str, list[Batch]]) -> dict[str, dict[str, Any]]:
    """Qualities by part, name and depth: all depths of an adaptive network, that of a plain one by the same metric."""
    found: dict[str, dict[str, Any]] = {part: {} for part in held_out}
    for part, task in product(held_out, CASES[run.case].judges):
        if isinstance(network, ad.AdaptiveNetwork):
            found[part][task.quality.name] = ad.evaluate(network, held_out[part], task=task)
            continue
        metric = task.metric(network.eval()(held_out[part][0][0]))
        for x, y in held_out[part]:
            task.measure(metric, network(x), y)
        found[part][task.quality.name] = {run.skip: task.value(metric)}
    return found


def tries(name: str) -> list[Run]:
    """The super-net alone with each learning rate."""
    return [Run(name, 0, lr, DEPTHS[0]) for lr in RATES]


def runs_of(name: str, seed: int, place: Place) -> list[Run]:
    """With the learning rate that is best for the super-net on validation data; none while a try is missing."""
    quality, found = CASES[name].judges[0].quality, {run.lr: place.found(run) for run in tries(name)}
    values = {str(lr): _value(each, quality.name, DEPTHS[0], "validation") for lr, each in found.items() if each}
    lr = float(quality.best(values)) if len(values) == len(RATES) else None
    return [] if lr is None else [Run(name, seed, lr, skip) for skip in ("", *DEPTHS)]


def table(seeds: Sequence[int], place: Place) -> str:
    """Markdown: qualities on test data, of the seeds whose runs are all there."""
    heads = ["task", "judged by", "seeds", "time", "skip", "one adaptive network", "networks alone"]
    lines = [heads, ["---"] * len(heads)]
    for name, case in CASES.items():
        found = [{run.skip: place.found(run) for run in runs_of(name, seed, place)} for seed in seeds]
        whole = [{skip: each for skip, each in runs.items() if each} for runs in found if runs and all(runs.values())]
        for number, task in enumerate(case.judges if whole else ()):
            head = ["" if number else case.title, str(task.quality), str(len(whole)), f"{mean(map(_cost, whole)):.2f}"]
            for skip in DEPTHS:
                values = [[_value(runs[own], task.quality.name, skip) for runs in whole] for own in ("", skip)]
                lines.append([*head, skip, *(said(each, 2 if task.quality.unit == "px" else 1) for each in values)])
                head = [""] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _value(content: Mapping[str, Any], quality: str, skip: str, part: str = "test") -> float:
    return content["quality"][part][quality][skip]


def _cost(runs: Mapping[str, Mapping[str, Any]]) -> float:
    """Of training, against super-net plus base-net alone."""
    adaptive, *alone = (runs[skip]["training, seconds of CPU time"] for skip in ("", DEPTHS[0], DEPTHS[-1]))
    return adaptive / sum(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10: its folder, or an .npz of JPEGs")
    parser.add_argument("--camvid", type=Path, help="CamVid: an .npz")
    parser.add_argument("--audio", type=Path, help="Free Spoken Digit Dataset: its folder of recordings")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS / "tasks")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    place = Place(options.results, {name: getattr(options, name) for name in ("data", "camvid", "audio")})
    torch.set_num_threads(1)
    for seed, name in () if options.table else product(options.seeds, options.cases):
        for run in tries(name):
            do(run, place)
        for run in runs_of(name, seed, place):
            do(run, place)
    print(table(options.seeds, place))


if __name__ == "__main__":
    main()

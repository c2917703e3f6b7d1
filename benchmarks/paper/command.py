"""The command line of every experiment: make missing runs, write the results, print the table."""

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from run import Place, Run, check_images, do_all, results
from setting import SETTINGS

sys.path.append(str(Path(__file__).parents[1]))
from measure import machine


def command(*experiments: ModuleType) -> None:
    """Run experiments, each a module with `plan`, `summary` and `table`."""
    parser = argparse.ArgumentParser(description="\n".join(filter(None, (each.__doc__ for each in experiments))))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10 (downloaded), or a .npz")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--setting", choices=SETTINGS, default="night", help="the budget; night by default")
    budget.add_argument(
        "--quick", action="store_const", const="quick", dest="setting", help="15 minutes, to check that it runs"
    )
    parser.add_argument("--processes", type=_positive, default=2, help="with one thread each; 2 by default")
    parser.add_argument("--results", type=Path, default=Place.folder, help="folder of results; the page's by default")
    parser.add_argument("--table", action="store_true", help="print existing results, run nothing")
    options = parser.parse_args()
    place = Place(SETTINGS[options.setting], options.data, options.results)
    torch.set_num_threads(1)
    try:
        if not options.table:
            _make(experiments, place, options.processes)
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; finished runs are kept in {place.results}: run it again to resume") from None
    for module in experiments:
        name = Path(module.__file__ or "").stem
        print(f"\n{(module.__doc__ or '').splitlines()[0]}\n{place.setting}\n\n{table(module, name, place)}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _make(experiments: tuple[ModuleType, ...], place: Place, processes: int) -> None:
    while left := missing(experiments, place):  # a plan may depend on results
        check_images(place)
        do_all(left, place, processes)
    for module in experiments:
        write(module, Path(module.__file__ or "").stem, place)


def missing(experiments: tuple[ModuleType, ...], place: Place) -> list[Run]:
    """Runs of any experiment without a result."""
    wanted = dict.fromkeys(run for module in experiments for run in module.plan(place))
    return [run for run in wanted if not place.result(run).exists()]


def write(module: ModuleType, name: str, place: Place) -> None:
    runs = module.plan(place)
    content = {
        "experiment": (module.__doc__ or "").splitlines()[0],
        "setting": str(place.setting),
        "runs": sorted(run.name for run in results(runs, place)),
        "runs missing": sorted({run.name for run in runs} - {run.name for run in results(runs, place)}),
        **module.summary(place),
        "machine": machine(),
    }
    place.results.mkdir(parents=True, exist_ok=True)
    (place.results / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def table(module: ModuleType, name: str, place: Place) -> str:
    found = read(name, place)
    missing = found["runs missing"]
    return module.table(found) + (f"\n\n*{len(missing)} runs are still missing.*" if missing else "")


def read(name: str, place: Place) -> dict[str, Any]:
    file = place.results / f"{name}.json"
    if not file.exists():
        raise SystemExit(f"{file} does not exist: run {name}.py without --table first, to make the missing runs")
    return json.loads(file.read_text())

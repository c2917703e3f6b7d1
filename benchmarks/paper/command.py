"""The command line of every experiment: make the runs that are missing, write what was found, print the table."""

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from run import Place, Run, do_all, results
from setting import SETTINGS

sys.path.append(str(Path(__file__).parents[1]))
from measure import machine


def command(*experiments: ModuleType) -> None:
    """Make some experiments, each a module with `plan`, `summary` and `table`."""
    parser = argparse.ArgumentParser(description="\n".join(filter(None, (each.__doc__ for each in experiments))))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10 (downloaded), or a .npz")
    parser.add_argument("--quick", action="store_true", help="a quarter of an hour for all: shows that it runs")
    parser.add_argument("--setting", choices=SETTINGS, default="night")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    place = Place(SETTINGS["quick" if options.quick else options.setting], options.data)
    torch.set_num_threads(1)
    if not options.table:
        while left := missing(experiments, place):  # a plan may depend on results
            do_all(left, place, options.processes)
    for module in experiments:
        name = Path(module.__file__ or "").stem
        if not options.table:
            write(module, name, place)
        print(f"\n{(module.__doc__ or '').splitlines()[0]}\n{place.setting}\n\n{table(module, name, place)}")


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
    return module.table(read(name, place))


def read(name: str, place: Place) -> dict[str, Any]:
    file = place.results / f"{name}.json"
    if not file.exists():
        raise SystemExit(f"{file} is not there: run {name}.py without --table first, it makes what is missing")
    return json.loads(file.read_text())

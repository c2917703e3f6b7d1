"""Writes the tables of docs/evidence.md, the README's table and its chart from the results; measures nothing."""

import json
import re
import sys
from pathlib import Path
from statistics import mean
from types import ModuleType

import command
import verdicts
from everything import EXPERIMENTS
from plans import markdown, said
from run import Place
from setting import SETTINGS

import adaptive_depth as ad

README = Path(__file__).parents[2] / "README.md"
PAGE = README.parent / "docs" / "evidence.md"
PLACE = Place(SETTINGS["night"], Path())
BLOCK = r"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"


def written(page: str) -> str:
    """The page with its tables made anew."""
    for module in EXPERIMENTS:
        name = Path(module.__file__ or "").stem
        page = _with_block(page, name, f"{table(module, name)}\n")
    page = _with_block(page, "verdicts", f"{verdicts.table(PLACE)}\n")
    return _with_block(page, "runs", _runs())


def table(module: ModuleType, name: str) -> str:
    return command.table(module, name, PLACE) if (PLACE.results / f"{name}.json").exists() else "*Not run yet.*"


def _with_block(page: str, name: str, content: str) -> str:
    pattern = re.compile(BLOCK.format(name=name), re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", page)


def _runs() -> str:
    found = {file.stem: json.loads(file.read_text()) for file in sorted((PLACE.results / "runs").glob("*.json"))}
    planned = {run.name for module in EXPERIMENTS for run in module.plan(PLACE)}
    hours = sum(each["training seconds (of a machine that was shared)"] for each in found.values()) / 3600
    lines = [f"* `{name}`{'' if name in planned else ' (of an earlier plan; in no table)'}\n" for name in found]
    return f"{len(found)} runs, {hours:.1f} hours of training on one core.\n\n{''.join(lines)}"


def headline() -> str:
    """The README's table: all depths of the ResNet beside networks of some of these depths trained alone."""
    family = command.read("main_result", PLACE)["families"]["resnet"]
    rows = [
        [skip, f"{family['macs'][skip] / 1e6:.1f}", said(ours), said(family["alone"].get(skip, []))]
        for skip, ours in family["adaptive"].items()
    ]
    return markdown(["skip", "MMACs", "top-1, one adaptive network", "top-1, a network each, trained alone"], rows)


def chart() -> None:
    """Accuracy of the ResNet's depths against multiply-adds, beside networks of the same depths trained alone."""
    family = command.read("main_result", PLACE)["families"]["resnet"]
    rows = (
        ad.Row(
            skip,
            mean(values),
            family["macs"][skip],
            0,
            alone=mean(family["alone"][skip]) if skip in family["alone"] else None,
        )
        for skip, values in family["adaptive"].items()
    )
    ad.plot_tradeoffs(ad.TradeOffs(tuple(rows)), PLACE.results / "tradeoffs.png", cost="macs")


def main() -> None:
    readme, page = README.read_text(), PAGE.read_text()
    new = _with_block(readme, "evidence", f"{headline()}\n"), written(page)
    if "--check" in sys.argv:
        sys.exit(0 if new == (readme, page) else f"{PAGE.name} or the README is not what page.py writes: run it")
    README.write_text(new[0])
    PAGE.write_text(new[1])
    chart()


if __name__ == "__main__":
    main()

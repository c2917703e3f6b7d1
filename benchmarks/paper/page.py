"""Writes the tables of docs/evidence.md, and the README's chart, from the results there are; measures nothing."""

import re
import sys
from pathlib import Path
from types import ModuleType

import verdicts
from command import read
from everything import EXPERIMENTS
from setting import SETTINGS

import adaptive_depth as ad
from runs import Place

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
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
    if not (PLACE.results / f"{name}.json").exists():
        return "*Not run yet.*"
    found = read(name, PLACE)
    missing = found["runs missing"]
    return module.table(found) + (f"\n\n*{len(missing)} runs are still missing.*" if missing else "")


def _with_block(page: str, name: str, content: str) -> str:
    pattern = re.compile(BLOCK.format(name=name), re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", page)


def _runs() -> str:
    names = sorted(file.stem for file in (PLACE.results / "runs").glob("*.json"))
    return "".join(f"* `{name}`\n" for name in names)


def chart() -> None:
    """Accuracy of the ResNet's depths against multiply-adds, beside networks of the same depths trained alone."""
    family = read("main_result", PLACE)["families"]["resnet"]

    def mean(values: list[float] | None) -> float | None:
        return sum(values) / len(values) if values else None

    rows = (
        ad.Row(skip, mean(values), family["macs"][skip], 0, alone=mean(family["alone"].get(skip)))
        for skip, values in family["adaptive"].items()
    )
    ad.plot_tradeoffs(ad.TradeOffs(tuple(rows)), PLACE.results / "tradeoffs.png", cost="macs")


if __name__ == "__main__":
    page = written(PAGE.read_text())
    if "--check" in sys.argv:
        sys.exit(page != PAGE.read_text())
    PAGE.write_text(page)
    chart()

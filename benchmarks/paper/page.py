"""Writes the tables of docs/evidence.md and of README.md beside this file, and the chart of docs/measured.md.

Measures nothing: everything follows from the results.
"""

import json
import re
import sys
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import command
import verdicts
from everything import EXPERIMENTS
from plans import markdown, said
from run import Place
from setting import SETTINGS

import adaptive_depth as ad

ROOT = Path(__file__).parents[2]
SHORT = ROOT / "docs" / "evidence.md"
PAGE = Path(__file__).parent / "README.md"  # everything, with every run
PLACE = Place(SETTINGS["night"], Path())
BLOCK = r"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"


def written(page: str) -> str:
    """The page with its tables regenerated."""
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
    lines = [f"* `{name}`{'' if name in planned else ' (of an earlier plan; not in any table)'}\n" for name in found]
    return f"{len(found)} runs, {hours:.1f} hours of training on one core.\n\n{''.join(lines)}"


def headline() -> str:
    """The main table: four families compared with networks of the same depths trained alone."""
    families = _main()
    rows = []
    for family in families.values():
        title = f"{family['title'].split(',')[0]} (seeds: {family['seeds']})"
        for skip, theirs in family["alone"].items():
            ours, first = family["passes"][skip], family["algorithm 1"].get(skip, [])
            rows.append([title, skip, f"{family['macs'][skip] / 1e6:.1f}", said(ours), said(theirs), said(first)])
            title = ""
    head = ["network", "skip", "MMACs", "one adaptive network", "one network each, trained alone", "Algorithm 1"]
    return markdown(head, rows)


def _main() -> dict[str, Any]:
    """The families at the main budget."""
    return next(iter(command.read("every_depth", PLACE)["budgets"].values()))


def chart() -> None:
    """Accuracy of the ResNet's depths against multiply-adds, with networks of the same depths trained alone."""
    family = _main()["resnet"]
    rows = (
        ad.Row(
            skip,
            mean(values),
            family["macs"][skip],
            0,
            alone=mean(family["alone"][skip]) if skip in family["alone"] else None,
        )
        for skip, values in family["passes"].items()
    )
    ad.plot_tradeoffs(ad.TradeOffs(tuple(rows)), PLACE.results / "tradeoffs.png", cost="macs")


def main() -> None:
    before = {path: path.read_text() for path in (SHORT, PAGE)}
    after = {path: written(text) for path, text in before.items()}
    after[SHORT] = _with_block(after[SHORT], "evidence", f"{headline()}\n")
    if "--check" in sys.argv:
        wrong = ", ".join(str(path.relative_to(ROOT)) for path in before if after[path] != before[path])
        sys.exit(f"{wrong}: out of date; run page.py" if wrong else 0)
    for path, text in after.items():
        path.write_text(text)
    chart()


if __name__ == "__main__":
    main()

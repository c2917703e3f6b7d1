"""docs/models.md says what is observed here and now: the quick ones of its networks, one test each."""

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = runpy.run_path(str(DOCS / "models.py"))
SAVED = json.loads((DOCS / "models.json").read_text())
FOUND = SAVED["found"]
BIG = {"convmixer", "nasnet", "pnasnet", "rdnet", "selecsls", "inception_v4", "efficientvim"}  # refused, and slow


def is_quick(each: dict) -> bool:
    return each["macs"][0] < 1e9 if "macs" in each else each["module"] not in BIG


QUICK = [each for each in FOUND if is_quick(each) and each["source"] != "transformers"]


def test_the_page_is_what_was_observed() -> None:
    assert PAGE["markdown"](FOUND, SAVED["by_hand"]) == (DOCS / "models.md").read_text()
    assert [(each["source"], each["module"] or each["model"]) for each in FOUND] == PAGE["every"]()


def test_nine_in_ten_of_the_residual_modules_of_timm_are_adapted() -> None:
    timm = [each for each in FOUND if each["source"] == "timm"]
    # Not residual: dense or cell-like networks, chains of convolutions, and one that widens every block's shortcut.
    others = {"densenet", "inception_v3", "inception_v4", "nasnet", "pnasnet", "rdnet", "rexnet", "selecsls", "vgg"}
    refused = {each["module"] for each in timm if "refused" in each}
    assert others <= refused
    residual = [each for each in timm if each["module"] not in others]
    assert len(timm) == 98
    assert sum("stages" in each for each in residual) >= 0.9 * len(residual)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["convmixer", "efficientvim", "tnt"])
def test_stages_by_hand_are_proven_again(module: str) -> None:
    seen = json.loads(json.dumps(PAGE["by_hand"](module)))
    assert seen in SAVED["by_hand"]
    assert "stages" in seen


@pytest.mark.slow
@pytest.mark.parametrize("each", QUICK, ids=lambda each: f"{each['source']} {each['module'] or each['model']}")
def test_it_is_observed_again(each: dict) -> None:
    seen = PAGE["observe"](each["source"], each["module"] or each["model"])
    assert json.loads(json.dumps(seen)) == each

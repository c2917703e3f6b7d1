"""cli/demo.py: the whole demo on an epoch of few images; its accuracies are poor then, and it must say so honestly."""

import json
import re
import shlex

import pytest

import adaptive_depth as ad
from adaptive_depth.cli import main
from adaptive_depth.cli.demo import _verdict, _whether_depth_pays
from adaptive_depth.data.sets import letters_in_photos


def test_verdict_is_honest_both_ways():
    assert "alone is better by 3.0 points, 15 of 500 test images" in _verdict("super-net", 96.0, 99.0, 500)
    assert "chance" not in _verdict("super-net", 96.0, 99.0, 500)
    assert "adaptive is better by 0.2 points, 1 of 500 test images (within chance" in _verdict(
        "base-net", 99.2, 99.0, 500
    )
    assert "alone 99.0 %\n           equal (within chance" in _verdict("base-net", 99.0, 99.0, 500)


def test_depth_pays_only_where_the_difference_is_more_than_chance():
    # Of 2,000 images 200 and 300 are wrong, 45 more or less by chance: two square roots of 500.
    assert _whether_depth_pays(90.0, 85.0, 2000).endswith("alone, the super-net is 5.0 points above the base-net.")
    assert _whether_depth_pays(87.0, 86.0, 2000).startswith("Depth does not pay here: ")
    assert _whether_depth_pays(85.0, 90.0, 2000).endswith(
        "here: alone, the base-net is 5.0 points above the super-net."
    )
    assert "differ by 20 images; up to 46 may be chance" in _whether_depth_pays(86.0, 87.0, 2000)


@pytest.fixture
def _fewer_letters(monkeypatch):
    for split, images in (("train", 3_000), ("validation", 1_200)):
        monkeypatch.setitem(letters_in_photos.IMAGES, split, images)
    letters_in_photos._draw.cache_clear()
    yield
    letters_in_photos._draw.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("_fewer_letters")
def test_the_whole_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs=1"]) == 0
    out, err = capsys.readouterr()
    finished = [line for line in err.splitlines() if re.match("[^:]+: epoch ", line)]  # without progress twice a minute
    assert [line.partition(": epoch 1 of 1, ")[0] for line in finished] == [
        "training all depths together",
        "training the super-net alone",
        "training the base-net alone",
    ]
    run = tmp_path / "runs" / "demo"
    for heading in ("1. One network, 16 depths", "2. The same", "3. All 16 depths", "4. A depth for", "5. Done in"):
        assert heading in out
    assert "the outputs of FFFF" in out
    assert len(json.loads((run / "tradeoffs.json").read_text())["rows"]) == 16
    assert (run / "tradeoffs.png").stat().st_size > 10_000
    assert ad.load(run).calibrated
    table = json.loads((run / "tradeoffs.json").read_text())
    macs = [row["macs"] for row in table["rows"]]
    pasted = next(line for line in out.splitlines() if " select " in line)
    words = shlex.split(pasted)
    assert min(macs) < float(words[-1]) < max(macs)
    assert main(words[1:]) == 0
    assert "Chosen: " in capsys.readouterr().out


def test_the_demo_does_not_replace_a_run_that_is_not_its_own(run, capsys):
    before = (run / "network.json").read_bytes()
    assert main(["demo", f"--output={run}"]) == 2
    assert "holds a network that demo did not write" in capsys.readouterr().err
    assert (run / "network.json").read_bytes() == before

"""adaptive-depth analyze: what it writes and prints, and one line for every mistake."""

import json
import sys

import pytest
import torch
from matplotlib.image import imread

import adaptive_depth as ad
from adaptive_depth.analysis.rationale import analyze
from adaptive_depth.analysis.values import Analysis
from adaptive_depth.cli import runs
from adaptive_depth.data import create_loader

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python
WRITTEN = ("analysis.json", "transformations.png", "maps.png")


def test_help_has_an_example(call):
    status, out, err = call("analyze", "--help")
    assert (status, err) == (0, "")
    assert "Example: adaptive-depth analyze runs/demo" in " ".join(out.split())


def test_a_run_is_analysed_on_its_validation_images(call, run):
    status, out, err = call("analyze", run, "--device=cpu")
    assert (status, err) == (0, "")
    found = Analysis.from_json(json.loads((run / "analysis.json").read_text()))
    assert out.startswith(str(found))
    assert out.splitlines()[-1] == f"Written to {', '.join(str(run / name) for name in WRITTEN)}"
    assert (found.images, found.classes, found.seen) == (12, 3, 3)
    assert [block.path for block in found.blocks[:3]] == ["layer1.0", "layer1.1", "layer2.0"]
    expected = analyze(ad.load(run), create_loader(runs.read_data(run), "validation"))
    assert found.losses == pytest.approx(expected.losses, rel=1e-3)
    assert imread(run / "transformations.png").ndim == 3
    assert imread(run / "maps.png").shape[:2] == (1320, 945)  # four images, in three columns


def test_options_and_json(call, run):
    status, out, err = call("analyze", run, "--images=4", "--batch-size=3", "--maps=0", "--json", f"--compare={run}")
    assert (status, err) == (0, "")
    found = Analysis.from_json(json.loads(out))
    assert found == Analysis.from_json(json.loads((run / "analysis.json").read_text()))
    assert found.images == 6  # two whole batches
    assert [block.alone for block in found.blocks] == [block.ratio for block in found.blocks]
    assert not (run / "maps.png").exists()
    again = call("analyze", run, "--images=4", "--batch-size=3", "--maps=0", "--json", f"--compare={run}")
    assert again[1] == out  # the images are drawn at random, but always the same


def test_classes_come_mixed_however_few_images_are_asked_for(call, run):
    found = json.loads(call("analyze", run, "--images=8", "--maps=0", "--json")[1])
    assert (found["images"], found["seen"]) == (8, 3)  # in the folder's order they would be of two classes


def test_weights_to_compare_with(call, run, tmp_path):
    model = ad.load(run).model
    torch.save(model.state_dict(), tmp_path / "alone.pth")
    status, out, _ = call("analyze", run, "--maps=0", f"--compare={tmp_path / 'alone.pth'}")
    assert status == 0
    found = Analysis.from_json(json.loads((run / "analysis.json").read_text()))
    images = create_loader(runs.read_data(run), "validation")
    expected = [block.alone for block in analyze(ad.load(run), images, compare=model).blocks if block.alone]
    assert [block.alone for block in found.blocks if block.alone] == pytest.approx(expected, rel=1e-3)
    assert "trained without the method" in " ".join(out.split())


def test_other_images_are_analysed_without_a_trace(call, run, pictures):
    before = sorted(path.name for path in run.iterdir())
    status, out, err = call("analyze", run, f"--data={pictures}", "--images=3")
    assert (status, err) == (0, "")
    assert out.startswith("Loss on 3 images")
    assert "Written" not in out
    assert sorted(path.name for path in run.iterdir()) == before


def test_without_grad_cam_there_are_no_maps_and_a_line_that_says_so(call, run, monkeypatch):
    (run / "maps.png").write_bytes(b"of an older analysis")
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    status, out, err = call("analyze", run)
    assert status == 0
    assert err.startswith("No maps.png: class-activation maps need a package that is not installed (")
    assert err.endswith('): pip install "adaptive-depth[analysis]"\n')
    assert out.splitlines()[-1] == f"Written to {run / 'analysis.json'}, {run / 'transformations.png'}"
    assert not (run / "maps.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["RUN", "--compare=nowhere.pth"], "nowhere.pth cannot be read"),
        (["RUN", "--images=0"], "Invalid value for '--images'"),
        (["RUN", "--data=nowhere"], "nowhere"),
        (["RUN", "--device=warp"], "--device 'warp'"),
    ],
)
def test_a_mistake_is_one_line(call, run, arguments, said):
    before = sorted(path.name for path in run.iterdir())
    status, out, err = call("analyze", *(str(run) if each == "RUN" else each for each in arguments))
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_run_of_another_architecture_cannot_be_compared(call, run, tmp_path):
    other = ad.adapt(ad.create_model("vit_tiny_patch16_224", img_size=32, depth=4, in_chans=1, num_classes=3))
    ad.save(other, tmp_path / "vit")
    status, _, err = call("analyze", run, f"--compare={tmp_path / 'vit'}")
    assert status == 2
    assert "to compare with" in err
    assert "'layer1.0' and 7 more" in err

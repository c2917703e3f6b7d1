"""Boxes and masks on the command line: train, evaluate, profile, select and report, for tiny networks by name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adaptive_depth as ad
from adaptive_depth.cli import runs
from adaptive_depth.data import create_loader

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
COLOURS = ((255, 0, 0), (0, 255, 0))  # of the two classes
YOLOS = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": [32, 48], "patch_size": 8, "num_detection_tokens": 4,
}  # fmt: skip
SEGFORMER = {
    "depths": [2, 2, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 8,
}  # fmt: skip


def square(noise: np.random.Generator) -> tuple[np.ndarray, int, tuple[int, int, int, int]]:
    """A dark image of 48 x 32 pixels with a square of one of two colours."""
    pixels = noise.integers(0, 60, (32, 48, 3)).astype(np.uint8)
    label, side = int(noise.integers(2)), int(noise.integers(10, 18))
    left, top = int(noise.integers(0, 48 - side)), int(noise.integers(0, 32 - side))
    pixels[top : top + side, left : left + side] = COLOURS[label]
    return pixels, label, (left, top, left + side, top + side)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory):
    """VOC: 8 images to train on, 4 to validate; one box more has no area, in each part."""
    folder, noise = tmp_path_factory.mktemp("boxes"), np.random.default_rng(0)
    for place in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for split, count in (("train", 8), ("val", 4)):
        names = [f"{split}{n}" for n in range(count)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            pixels, label, box = square(noise)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.png")
            flat = [(1 - label, (9, 9, 9, 20))] if name.endswith("0") else []
            objects = "".join(
                f"<object><name>{('red', 'green')[kind]}</name><bndbox>"
                + "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True))
                + "</bndbox></object>"
                for kind, sides in [(label, box), *flat]
            )
            size = "<size><width>48</width><height>32</height></size>"
            (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return folder


@pytest.fixture(scope="session")
def masks(tmp_path_factory):
    """8 images to train on, 4 to validate; 0 is what is no square, 7 is the border of the image, of no class."""
    folder, noise = tmp_path_factory.mktemp("masks"), np.random.default_rng(1)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for n in range(count):
            pixels, label, (left, top, right, bottom) = square(noise)
            mask = np.zeros((32, 48), np.uint8)
            mask[top:bottom, left:right] = 1 + label
            mask[:, :2] = 7
            Image.fromarray(pixels).save(folder / "images" / split / f"{n}.png")
            Image.fromarray(mask).save(folder / "masks" / split / f"{n}.png")
    (folder / "classes.txt").write_text("nothing\nred\ngreen\n")
    return folder


def of_transformers(folder: Path, name: str, config: dict) -> list[str]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return [f"transformers/{name}", f"--model-kwargs=config={path}"]


SSD = "torchvision/ssdlite320_mobilenet_v3_large"
OPTIONS = ["--epochs=1", "--batch-size=4", "--lr=0.01", "--workers=0", "--device=cpu", "--optimizer=adamw"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, boxes, masks):
    """Runs of a detector and of a segmentation network; what training wrote on stderr."""
    from adaptive_depth.cli import main

    folder, told = tmp_path_factory.mktemp("runs"), {}
    detector = [*of_transformers(folder, "YolosForObjectDetection", YOLOS), f"--data=voc/{boxes}", "--group-size=2"]
    segmenter = of_transformers(folder, "SegformerForSemanticSegmentation", SEGFORMER)
    segmenter += [f"--data=masks/{masks}", "--task=segmentation(ignore_index=7)", "--image-size=32x48"]
    for name, model in (("detector", [*detector, "--set=skip_damaged=0.2"]), ("segmenter", segmenter)):
        with pytest.MonkeyPatch.context() as patch, runs.threads(1):
            err = folder / f"{name}.txt"
            with err.open("w") as stream:
                patch.setattr(sys, "stderr", stream)
                status = main(["train", *model, *OPTIONS, f"--output={folder / name}"])
            assert status == 0, err.read_text()
            told[name] = err.read_text()
    return folder, told


# -- masks ------------------------------------------------------------------------------------------------------


def miou(network: ad.AdaptiveNetwork, folder: Path, skip: str) -> float:
    """Of three classes, over all pixels but those of 7."""
    config = runs.read_data(folder)
    overlap, union = torch.zeros(3), torch.zeros(3)
    for images, wanted in create_loader(config, "validation"):
        with torch.no_grad():
            logits = network(images, skip=skip).logits
        found = torch.nn.functional.interpolate(logits, wanted.shape[1:], mode="bilinear").argmax(1)
        for label in range(3):
            here, there = found == label, wanted == label
            counted = wanted != 7
            overlap[label] += (here & there & counted).sum()
            union[label] += ((here | there) & counted).sum()
    return 100 * float((overlap / union).mean())


def test_a_segmentation_network_is_trained_measured_chosen_and_reported(trained, call, tmp_path):
    run = trained[0] / "segmenter"
    assert json.loads((run / "task.json").read_text())["task"] == "segmentation(ignore_index=7)"
    config = runs.read_data(run)
    assert (config.image_size, config.resize, config.ignored) == ((32, 48), "stretch", 7)
    assert config.classes == ("nothing", "red", "green")
    measured = runs.read_accuracy(run)
    assert str(measured["quality"]) == "mIoU (%)"
    network = ad.load(run)
    first, last = network.skips[0], network.skips[-1]
    for skip in (first, last):
        assert measured["accuracy"][skip] == pytest.approx(miou(network, run, skip), abs=1e-3)
    before = (run / "accuracy.json").read_bytes()
    status, out, err = call("evaluate", run, "--device=cpu")
    assert (status, err) == (0, "")
    assert f"mIoU on 4 images of {config.name}" in out
    assert json.loads((run / "accuracy.json").read_text())["accuracy"] == json.loads(before)["accuracy"]
    status, _, err = call("profile", run, "--seconds=0.3", "--device=cpu")
    assert (status, err) == (0, "")
    assert runs.read_profile(run).inputs == ((1, 3, 32, 48),)
    status, _, err = call("profile", run, "--seconds=0.1", "--device=cpu", "--image-size=32")
    assert status == 0
    table = runs.trade_offs(run)
    assert str(table.quality) == "mIoU (%)"
    status, out, _ = call("select", run, f"--quality={min(measured['accuracy'].values())}")
    assert (status, "mIoU" in out) == (0, True)
    status, out, err = call("report", run)
    assert (status, "mIoU" in (run / "report.html").read_text()) == (0, True)


def test_masks_may_stand_elsewhere_but_boxes_are_another_thing(trained, call, masks, boxes):
    run = trained[0] / "segmenter"
    status, out, _ = call("evaluate", run, f"--data=masks/{masks}", "--device=cpu")
    assert (status, "mIoU on 4 images" in out) == (0, True)
    status, _, err = call("evaluate", run, f"--data=voc/{boxes}", "--device=cpu")
    assert (status, "is of another kind than" in err) == (2, True)
    status, _, err = call("evaluate", run, "--task=classification", "--device=cpu")
    assert status == 2
    assert "the task Classification needs one class for each image, but the data" in err
    assert "has the class of every pixel" in err


# -- run --------------------------------------------------------------------------------------------------------


def said_of(call, artifact, images: Path, skip: str, drawn: Path) -> list[dict]:
    """What `adaptive-depth run` says of each image, and draws."""
    status, out, err = call("run", artifact, images, f"--skip={skip}", "--json", f"--draw={drawn}")
    assert status == 0, err
    return [each["outputs"] for each in json.loads(out)["predictions"]]


def check_a_run_is_its_file(call, run: Path, images: Path, skip: str, folder: Path) -> list[dict]:
    """A run folder says and draws of images what its exported file does; that is returned."""
    status, _, err = call("export", run, "--to=onnx", f"--skips={skip}", f"--output={folder / 'model.onnx'}")
    assert status == 0, err
    found = said_of(call, run, images, skip, folder / "by_run")
    same = said_of(call, folder / "model.onnx", images, skip, folder / "by_file")
    assert [*map(flat, found)] == [*map(flat, same)]
    files = [sorted((folder / name).iterdir()) for name in ("by_run", "by_file")]
    assert len(files[0]) == len(found) > 0
    for one, other in zip(*files, strict=True):
        assert one.name == other.name
        pixels = [np.asarray(Image.open(file)).astype(int) for file in (one, other)]
        assert np.abs(pixels[0] - pixels[1]).mean() < 1
    return found


def flat(values):
    """Numbers may be off by rounding."""
    if isinstance(values, dict):
        return {key: flat(value) for key, value in values.items()}
    if isinstance(values, list):
        return [flat(value) for value in values]
    return pytest.approx(values, rel=1e-3, abs=1e-2) if isinstance(values, float) else values


def test_a_detector_s_run_finds_what_its_file_does(trained, call, boxes, tmp_path):
    run, skip = tmp_path / "run", "TT"
    network = ad.load(trained[0] / "detector")
    with torch.no_grad():
        network.model.class_labels_classifier.layers[-1].bias += torch.tensor(
            [5.0, 0.0, 0.0]
        )  # all its queries find one
    ad.save(network, run)
    for file in ("data.json", "task.json"):
        (run / file).write_bytes((trained[0] / "detector" / file).read_bytes())
    for found in check_a_run_is_its_file(call, run, boxes / "JPEGImages", skip, tmp_path):
        assert [each["class"] for each in found[""]["objects"]] == ["green"] * 4


def test_a_segmentation_network_s_run_says_what_its_file_does(trained, call, masks, tmp_path):
    run = trained[0] / "segmenter"
    for found in check_a_run_is_its_file(call, run, masks / "images" / "val", ad.load(run).skips[-1], tmp_path):
        assert {*found[""]["shares"]} <= {"nothing", "red", "green"}
        assert sum(found[""]["shares"].values()) == pytest.approx(1.0)


# -- boxes ------------------------------------------------------------------------------------------------------


def test_a_detector_is_trained_measured_chosen_and_reported(trained, call):
    folder, told = trained
    run = folder / "detector"
    for part, file, number in (("training", "train0.xml", 9), ("validation", "val0.xml", 5)):
        assert f"{part} images: 1 of {number} boxes left out: {file}, object 2" in told["detector"]
    assert json.loads((run / "task.json").read_text())["task"] == "detection"
    config = runs.read_data(run)
    assert (config.image_size, config.resize, config.classes) == ((32, 48), "stretch", ("green", "red"))
    network = ad.load(run)
    assert network.model.config.id2label == {0: "green", 1: "red"}
    measured = runs.read_accuracy(run)
    assert str(measured["quality"]) == "mAP@[.5:.95] (%)"
    assert set(measured["accuracy"]) == set(network.skips)
    expected = ad.evaluate(network, create_loader(config, "validation", batch_size=3), task=ad.tasks.Detection())
    assert measured["accuracy"] == pytest.approx(dict(expected), abs=1e-3)
    status, out, err = call("evaluate", run, "--device=cpu")
    assert (status, f"mAP@[.5:.95] on 4 images of {config.name}" in out) == (0, True)
    assert err.startswith("validation images: 1 of 5 boxes left out: val0.xml, object 2 (")
    assert err.endswith("): it has no area (left, top, right, bottom: 9, 9, 9, 20)\n")
    status, out, _ = call("evaluate", run, "--task=detection(iou=0.5)", "--json", "--device=cpu")
    assert (status, json.loads(out)["quality"]["name"]) == (0, "mAP@50")
    status, _, err = call("profile", run, "--seconds=0.3", "--device=cpu")
    assert status == 0, err
    status, out, _ = call("select", run, "--macs=1000000000")
    assert (status, "mAP" in out) == (0, True)
    status, _, err = call("report", run)
    assert (status, "mAP@" in (run / "report.html").read_text()) == (0, True)


@pytest.mark.slow
def test_a_detector_of_torchvision_by_name(call, boxes, tmp_path):
    run = tmp_path / "run"
    model = ["torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", "--image-size=64x96", "--mandatory=0.9"]
    status, _, err = call("train", *model, f"--data=voc/{boxes}", *OPTIONS, "--set=skip_damaged=0.2", f"--output={run}")
    assert status == 0, err
    config = runs.read_data(run)
    assert config.classes == ("__background__", "green", "red")
    assert (config.image_size, config.resize) == ((64, 96), "letterbox")
    network = ad.load(run)
    assert (network.model.transform.min_size, network.model.transform.max_size) == ((64,), 96)
    assert network.model.roi_heads.box_predictor.cls_score.out_features == 3
    skip = network.skips[-1]
    found = check_a_run_is_its_file(call, run, boxes / "JPEGImages", skip, tmp_path)
    assert {each["class"] for image in found for each in image[""]["objects"]} <= {"green", "red"}
    assert str(runs.read_accuracy(run)["quality"]) == "mAP@[.5:.95] (%)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["resnet18"], "is not a detector with a known format of boxes: expected one of torchvision"),
        (["transformers/YolosForObjectDetection", "--model-kwargs=config=nowhere.json"], "nowhere.json"),
        ([SSD, "--image-size=64"], "the model itself resizes images to 320 x 320"),
        ([SSD, "--image-size=1x2x3"], "--image-size '1x2x3': expected pixels, such as 96, or height and width"),
        ([SSD, "--task=segmentation"], "the task Segmentation needs the class of every pixel for each image"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(call, boxes, tmp_path, options, said):
    status, out, err = call("train", *options, f"--data=voc/{boxes}", *OPTIONS, f"--output={tmp_path / 'run'}")
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_too_many_boxes_that_mark_nothing(call, boxes, tmp_path):
    model = of_transformers(tmp_path, "YolosForObjectDetection", YOLOS)
    status, _, err = call("train", *model, f"--data=voc/{boxes}", *OPTIONS, f"--output={tmp_path / 'run'}")
    assert status == 2
    assert "1 of 9 boxes left out: train0.xml, object 2" in err
    assert "more than skip_damaged=0.01 allows" in err

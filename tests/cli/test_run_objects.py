"""adaptive-depth run of detectors and segmentation networks: what is found, and where; in words, JSON and drawings."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

import adaptive_depth as ad
from adaptive_depth.cli import runs
from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.preprocessing import Preprocessing

pytest.importorskip("onnxruntime")
_spec = importlib.util.spec_from_file_location("tiny_detectors", Path(__file__).parents[1] / "tiny_detectors.py")
assert _spec is not None
assert _spec.loader is not None
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

LABELS = ("ant", "bee", "cat")
ACCURACY = {"FF": 40.0, "FT": 35.0, "TF": 30.0, "TT": 20.0}
TABLE = ad.TradeOffs(
    tuple(ad.Row(skip, ACCURACY[skip], macs, 9) for skip, macs in zip(ACCURACY, (9, 7, 7, 5), strict=True)),
    quality=ad.tasks.Quality("mAP@50", "%"),
)
BOXES = Preprocessing(32, 3, (0.0,) * 3, (1.0,) * 3, "bilinear", classes=LABELS, resize="letterbox", fill=(0.5,) * 3)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A RetinaNet of two stages, and its ONNX file."""
    network = tiny.adapted(tiny.detector("retinanet", score_thresh=0.6, detections_per_img=5))
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_network(network, file, torch.rand(1, 3, 32, 32), data=BOXES, trade_offs=TABLE)
    return network, file


@pytest.fixture
def photos(tmp_path):
    """Two images, wide and high, one of them in a folder of its own."""
    folder, noise = tmp_path / "photos", np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for name, shape in (("wide.png", (60, 120, 3)), ("more/high.png", (120, 90, 3))):
        Image.fromarray(noise.integers(0, 255, shape, np.uint8)).save(folder / name)
    return folder


def called(call, *arguments):
    status, out, err = call("run", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def wanted(network, file, skip):
    """What the detector itself finds in the letterbox, in pixels of the photograph."""
    image = Image.open(file).convert("RGB")
    scale = 32 / max(image.size)
    canvas = Image.new("RGB", (32, 32), (128, 128, 128))
    canvas.paste(image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BILINEAR))
    x = torch.from_numpy(np.asarray(canvas, np.float32) / 255).permute(2, 0, 1)
    with torch.no_grad():
        found = network([x], skip=skip)[0]
    boxes = found["boxes"].numpy() / np.tile(np.round(np.array(image.size) * scale), 2)
    return found, np.clip(boxes, 0, 1) * np.tile(image.size, 2)


@pytest.mark.parametrize("skip", ["FF", "TT"])
def test_objects_are_those_of_the_detector_in_pixels_of_the_photograph(call, detector, photos, skip):
    network, file = detector
    said = called(call, file, photos, "--skip", skip)
    assert [Path(each["image"]).name for each in said["predictions"]] == ["high.png", "wide.png"]
    for each in said["predictions"]:
        found, boxes = wanted(network, each["image"], skip)
        objects = each["outputs"][""]["objects"]
        assert len(objects) == len(found["scores"]) == 5
        for one, box, score, label in zip(objects, boxes, found["scores"], found["labels"], strict=True):
            assert one["box"] == pytest.approx(box.tolist(), abs=0.05)
            assert one["score"] == pytest.approx(float(score), abs=1e-4)
            assert (one["class"], one["number"]) == (LABELS[label], int(label))


def test_objects_in_words(call, detector, photos):
    _, out, _ = call("run", detector[1], photos / "wide.png", "--skip", "FF")
    line, *summary = out.splitlines()
    one = r"(ant|bee|cat) \d+\.\d % \(\d+, \d+\) to \(\d+, \d+\)"
    assert re.fullmatch(rf".*wide\.png  FF  {one}(, {one}){{4}}", line)
    assert re.search(r"preparing an image \S+ ms, reading the outputs \S+ ms$", summary[1])


def test_boxes_are_drawn_under_a_deadline(call, detector, photos, tmp_path):
    said = called(call, detector[1], photos, "--target-ms", "5000", "--repeat", "2", "--draw", tmp_path / "drawn")
    assert (said["images"], said["misses"], said["depths"]) == (4, 0, {"FF": 4})
    assert said["read_mean_ms"] > 0
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["more_high.png.jpg", "wide.png.jpg"]
    for file, name in zip(files, ("more/high.png", "wide.png"), strict=True):
        with Image.open(file) as drawn, Image.open(photos / name) as photo:
            assert drawn.size == photo.size
            assert np.abs(np.asarray(drawn).astype(int) - np.asarray(photo)).mean() > 5


@pytest.mark.parametrize("options", [("--skip", "TT"), ("--target-ms", "5000")])
def test_frames_of_a_film_are_drawn(call, detector, tmp_path, options):
    cv2 = pytest.importorskip("cv2")
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in (50, 100, 150):
        film.write(np.full((48, 64, 3), level, np.uint8))
    film.release()
    said = called(call, detector[1], f"camera:{tmp_path / 'film.avi'}", *options, "--draw", tmp_path / "drawn")
    assert (said["images"], said["predictions"]) == (3, [])  # what is said of each is on its drawing
    names = sorted(file.name for file in (tmp_path / "drawn").iterdir())
    assert [name[-6:] for name in names] == ["_1.jpg", "_2.jpg", "_3.jpg"]


class Live:
    """A camera that OpenCV opened: each image is brighter than the one before, and there is no last one."""

    opened = ()

    def __init__(self, address):
        self.address, self.taken, self.released = address, 0, False
        Live.opened = (*Live.opened, self)

    def set(self, *_):
        return True

    def read(self):
        self.taken += 1
        return True, np.full((48, 64, 3), min(255, 40 + self.taken), np.uint8)

    def release(self):
        self.released = True


def test_a_camera_under_a_deadline(call, detector, tmp_path, monkeypatch):
    """Until the time is over; each image is the newest, at the depth that the governor chose."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", Live)
    monkeypatch.setattr(Live, "opened", ())
    drawn = tmp_path / "drawn"
    said = called(call, detector[1], "camera:1", "--target-ms", "5000", "--seconds", "0.3", "--draw", drawn)
    (camera,) = Live.opened
    assert (camera.address, camera.released) == (1, True)
    assert (said["depths"], said["misses"]) == ({"FF": said["images"]}, 0)
    assert 0 < said["images"] == camera.taken  # none waited
    files = [drawn / f"camera_1_{number}.jpg" for number in range(1, camera.taken + 1)]
    assert sorted(files) == sorted(drawn.iterdir())
    with Image.open(files[0]) as image:
        assert image.size == (64, 48)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("photos", r"--draw .*photos is a file or not empty, so something could be lost: name a new folder"),
        ("photos/wide.png", r"--draw .*wide.png is a file or not empty, so something could be lost"),
        ("none/there", r"none is not writable: name a folder elsewhere with --draw"),
    ],
)
def test_where_nothing_may_be_drawn(call, detector, photos, tmp_path, folder, message):
    before = sorted(tmp_path.rglob("*"))
    status, out, err = call("run", detector[1], photos, "--skip", "FF", "--draw", tmp_path / folder)
    assert (status, out) == (2, "")
    assert re.search(message, err), err
    assert sorted(tmp_path.rglob("*")) == before


def masked():
    """A Mask R-CNN, which no file holds."""
    model = tiny.detector("faster")
    model.roi_heads.mask_roi_pool = MultiScaleRoIAlign(["0", "1"], 3, 2)
    model.roi_heads.mask_head = MaskRCNNHeads(8, (8,), 1)
    model.roi_heads.mask_predictor = MaskRCNNPredictor(8, 8, 4)
    return tiny.adapted(model.eval())


@pytest.mark.parametrize("kind", ["retinanet", "faster", "masked"])
def test_a_network_itself_finds_the_same_without_an_export(call, detector, photos, monkeypatch, kind):
    network = (
        detector[0] if kind == "retinanet" else masked() if kind == "masked" else tiny.adapted(tiny.detector(kind))
    )
    found = _of_a_network(call, network, photos, monkeypatch, "--min-score", "0.05")
    for each in found:
        alone, boxes = wanted(network, each["image"], "TF")
        objects = each["outputs"][""]["objects"]
        assert len(objects) == len(alone["scores"]) > 0
        assert [one["box"] for one in objects] == pytest.approx(np.array(boxes), abs=0.05)


def _of_a_network(call, network, photos, monkeypatch, *asked):
    """As of a run folder, which the data of a detector's training would be in."""
    command = importlib.import_module("adaptive_depth.cli.run")  # the package has a function of that name

    def opened(artifact, backend, threads, providers, *, governed):
        session = ad.open_session(network)
        return session, session.artifact, BOXES

    monkeypatch.setattr(command, "_open", opened)
    return called(call, "unused", photos, "--skip", "TF", *asked)["predictions"]


@pytest.mark.parametrize(("asked", "least"), [((), 0.25), (("--min-score", "0.6"), 0.6)])
def test_objects_that_score_little_are_left_out(call, photos, monkeypatch, asked, least):
    """A detector hands out whatever scores more than 0.05, for its metric: too many to look at."""
    network = tiny.adapted(tiny.detector("faster"))
    every = _of_a_network(call, network, photos, monkeypatch, "--min-score", "0.05")
    some = _of_a_network(call, network, photos, monkeypatch, *asked)
    for all_of_them, few in zip(every, some, strict=True):
        scores = [each["score"] for each in all_of_them["outputs"][""]["objects"]]
        kept = [each["score"] for each in few["outputs"][""]["objects"]]
        assert kept == pytest.approx([score for score in scores if score > least])
        assert len(kept) < len(scores)


class Pixels(nn.Module):
    """Brightness of a place as the logit of the second of two classes, at a quarter of the size."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), tiny.Block(4), tiny.Block(4))
        self.head = nn.Conv2d(7, 2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, 0.0)
        self.head.weight.data[1, 4:] = 1.0

    def forward(self, x):
        small = nn.functional.avg_pool2d(x, 4)
        return {"out": self.head(torch.cat([0 * self.one(x), small], 1))}


def test_places_are_drawn_in_colours(call, photos, tmp_path):
    network = ad.adapt(Pixels(), [ad.Stage(("one.1",), ("one.2",))], example=torch.rand(1, 3, 16, 32)).eval()
    data = Preprocessing((16, 32), 3, (0.5,) * 3, (0.5,) * 3, classes=("dark", "bright"), resize="stretch")
    file = tmp_path / "model.onnx"
    meanings = ad.tasks.Segmentation().meanings()
    export_network(network, file, torch.rand(1, 3, 16, 32), data=data, meanings=meanings)
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[:, 80:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    said = called(call, file, tmp_path / "half.png", "--skip", "T", "--draw", tmp_path / "drawn")
    assert said["predictions"][0]["outputs"]["out"]["shares"] == {"dark": 0.5, "bright": 0.5}
    with Image.open(tmp_path / "drawn" / "half.png.jpg") as drawn:
        found = np.asarray(drawn).astype(int)
    assert found.shape == (80, 160, 3)
    assert np.abs(found[70, 20] - np.round(0.55 * np.array([230, 159, 0]))).max() < 12  # orange over black
    assert np.abs(found[70, 140] - np.round(0.55 * np.array([86, 180, 233]) + 0.45 * 255)).max() < 12


def test_a_detector_is_exported_by_name(call, tmp_path, photos):
    """Its images are prepared as it says by itself, so that its file runs at once."""
    assert runs.is_model_name("torchvision/ssdlite320_mobilenet_v3_large")
    file = tmp_path / "model.onnx"
    status, out, err = call(
        "export",
        "torchvision/ssdlite320_mobilenet_v3_large",
        "--output",
        file,
        "--skips=FFFFF,TTTTT",
        "--suppress",
        "--model-kwargs=num_classes=4",
    )
    assert status == 0, err
    assert "input any x 3 x 320 x 320, outputs boxes, scores, labels" in out
    said = called(call, file, photos / "wide.png", "--skip", "TTTTT", "--draw", tmp_path / "drawn")
    assert "objects" in said["predictions"][0]["outputs"][""]

"""adaptive-depth run: images through exported files, in this process, in others, and in a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import adaptive_depth as ad
from adaptive_depth.cli import live
from adaptive_depth.data import DataConfig
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.exporting import export_network
from adaptive_depth.deploy.predictions import Prediction
from adaptive_depth.deploy.preparing import prepare, read_image
from adaptive_depth.deploy.streaming import Pass, Tally
from adaptive_depth.errors import ArtifactError
from adaptive_depth.governor.decisions import read_log
from adaptive_depth.governor.governor import replay
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality
from adaptive_depth.schema import to_plain

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python
LABELS = ("ant", "bee", "cat", "dog", "elk")
DATA = DataConfig("digits", None, 16, 3, (0.5,) * 3, (0.25,) * 3, "bilinear", 0.8, LABELS)
PREPROCESSING = Preprocessing(16, 3, (0.5,) * 3, (0.25,) * 3, "bilinear", 0.8)
ACCURACY = {"FF": 80.0, "FT": 75.0, "TF": 70.0, "TT": 60.0}
TABLE = ad.TradeOffs(
    tuple(ad.Row(skip, ACCURACY[skip], macs, 9) for skip, macs in zip(ACCURACY, (9, 7, 7, 5), strict=True))
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of two stages whose outputs differ at every depth, and its ONNX file."""
    torch.manual_seed(0)
    stages = [nn.Sequential(Block(), Block()) for _ in range(2)]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    plan = [ad.Stage((f"{stage}.0",), (f"{stage}.1",)) for stage in (0, 1)]
    network = ad.adapt(model, plan, example=torch.randn(2, 3, 16, 16)).eval()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.5, 0.5)
                part.bias.uniform_(-0.5, 0.5)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_network(network, path, torch.randn(1, 3, 16, 16), data=DATA, trade_offs=TABLE)
    return network, path


@pytest.fixture
def model(exported):
    return exported[1]


@pytest.fixture
def photos(tmp_path):
    """Six images of several sizes."""
    folder, noise = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(6):
        Image.fromarray(noise.integers(0, 255, (30 + number, 40, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def described(model, tmp_path):
    """The file, saying something else of itself."""

    def changed(**fields):
        whole = onnx.load(model)
        artifact = Artifact.from_json(whole.metadata_props[0].value).to_json()
        del whole.metadata_props[1:]  # the checksum, as the message says of what was changed on purpose
        whole.metadata_props[0].value = json.dumps(artifact | to_plain(fields))
        onnx.save(whole, tmp_path / "described.onnx")
        return tmp_path / "described.onnx"

    return changed


@pytest.fixture
def shown(monkeypatch):
    """Every pass that was to be shown."""
    passes = []
    monkeypatch.setattr(live.View, "show", lambda self, passed, tally, slowdown: passes.append(passed))
    return passes


def called(call, *arguments):
    """What a command prints as JSON, and its stderr."""
    status, out, err = call("run", *arguments, "--json")
    assert status == 0, err
    return json.loads(out), err


# -- what runs --------------------------------------------------------------------------------------------------


def test_one_depth_names_what_the_network_sees(call, exported, photos, shown):
    network, model = exported
    said, err = called(call, model, photos, "--skip", "TF")
    assert err == ""
    for number, passed in enumerate(shown):
        x = torch.from_numpy(prepare(read_image(photos / f"{number}.png"), PREPROCESSING)[None])
        with torch.no_grad():
            shares = network(x, skip="TF")[0].softmax(0)
        assert passed.image == str(photos / f"{number}.png")
        (said_of,) = passed.predictions
        assert said_of.values["class"] == LABELS[int(shares.argmax())]
        assert said_of.values["score"] == pytest.approx(float(shares.max()), abs=1e-4)
        assert said["predictions"][number] == {"image": passed.image, "skip": "TF", "outputs": {"": said_of.values}}
    assert len(shown) == 6
    assert (said["images"], said["depths"], said["expected"], said["switches"]) == (6, {"TF": 6}, 70.0, 0)
    assert (said["target_ms"], said["misses"], said["met_percent"], said["table"]) == (None, None, None, None)
    assert said["latency_p95_ms"] >= said["latency_mean_ms"] / 2 > 0
    assert said["prepared_mean_ms"] > 0
    assert (said["backend"], said["interrupted"], said["error"], said["left_out"]) == ("onnxruntime", False, None, 0)


def test_a_deadline_with_room_runs_the_super_net_and_its_log_replays(call, model, photos, tmp_path):
    log = tmp_path / "decisions.jsonl"
    said, _ = called(call, model, photos, "--target-ms", "1000", "--log", log, "--repeat", "2", "--met", "0.9")
    assert (said["images"], said["depths"], said["expected"]) == (12, {"FF": 12}, 80.0)
    assert (said["target_ms"], said["misses"], said["met_percent"]) == (1000, 0, 100)
    decisions = read_log(log)
    assert len(decisions) == 12
    table = ad.TradeOffs.from_json(said["table"])
    assert [(row.skip, row.accuracy) for row in table.rows] == list(ACCURACY.items())
    assert all(row.latency_ms and 0 < row.latency_ms < 1000 for row in table.rows)
    assert replay(decisions, table, target_ms=1000, met=0.9) == decisions
    assert called(call, model, photos, "--target-ms", "1000", "--log", log)[0]["images"] == 6  # written anew
    assert len(log.read_text().splitlines()) == 6


def test_a_deadline_that_nothing_meets_runs_the_fastest_and_says_so_once(call, model, photos, caplog):
    said, _ = called(call, model, photos, "--images-per-s", "1e9")
    latencies = {row["skip"]: row["latency_ms"] for row in said["table"]["rows"]}
    assert said["target_ms"] == pytest.approx(1e-6)
    assert said["depths"] == {min(latencies, key=lambda skip: latencies[skip]): 6}
    assert (said["misses"], said["met_percent"]) == (6, 0)
    assert [record.message.split(" while")[0] for record in caplog.records] == ["no depth meets 1e-06 ms"]


def test_a_deadline_for_one_depth_is_counted(call, model, photos):
    missed, _ = called(call, model, photos, "--skip", "FF", "--target-ms", "1e-6")
    assert (missed["misses"], missed["met_percent"], missed["depths"]) == (6, 0, {"FF": 6})


def test_in_words(call, model, photos):
    (photos / "7.png").write_text("no image")
    status, out, err = call("run", model, photos, "--target-ms", "1000", "--repeat", "3")
    assert status == 0
    *predictions, images, deadline, latency, depths, accuracy = out.splitlines()
    assert len(predictions) == 6  # of the first round
    for number, line in enumerate(predictions):
        assert re.fullmatch(rf"{photos}/{number}\.png  FF  ({'|'.join(LABELS)}) \d+\.\d %", line)
    assert re.fullmatch(r"Images: 18 in \S+ s, \S+ per second with reading and preparing, 1 left out", images)
    assert deadline == "Deadline: 1000 ms met by 100.0 %, 0 missed"
    assert re.fullmatch(
        r"Latency: \S+ ms on average, 95 % within \S+ ms \(onnxruntime\); preparing an image \S+ ms, reading the "
        r"outputs \S+ ms",
        latency,
    )
    assert depths == "Depths: FF 100.0 %; switches: 0"
    assert accuracy == "Accuracy: 80.00 % expected at these depths"
    assert err.count("Left out: ") == 1  # told once, although it was tried three times
    assert "7.png cannot be read" in err


def test_predictions_are_written_pass_by_pass(call, exported, photos, tmp_path, shown):
    network, model = exported
    file = tmp_path / "predictions.jsonl"
    called(call, model, photos, "--skip", "TF", "--repeat", "2", "--predictions", file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["image"], line["skip"], line["latency_ms"]) for line in lines] == [
        (passed.image, "TF", passed.latency_ms) for passed in shown
    ]
    assert len(lines) == 12
    x = torch.from_numpy(prepare(read_image(photos / "3.png"), PREPROCESSING)[None])
    with torch.no_grad():
        shares = network(x, skip="TF")[0].softmax(0)
    assert lines[3]["outputs"][""] == {
        "class": LABELS[int(shares.argmax())],
        "score": pytest.approx(float(shares.max()), abs=1e-4),
    }
    called(call, model, photos, "--skip", "TF", "--predictions", file)  # replaces what it wrote before
    assert len(file.read_text().splitlines()) == 6
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = call("run", model, photos, "--skip", "TF", "--predictions", tmp_path / "notes.txt")
    assert (status, (tmp_path / "notes.txt").read_text()) == (2, "mine")
    assert "--predictions" in err
    assert "has other content, which would be lost" in err


def test_predictions_of_a_queue_say_who_waited_and_who_was_turned_away(call, model, photos, tmp_path):
    file = tmp_path / "predictions.jsonl"
    queued = ("--pace", "500", "--predictions", file)
    called(call, model, photos, "--target-ms", "60000", *queued)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line["waited_ms"] > 0 and not line["shed"] for line in lines)
    assert len(lines) == 6
    called(call, model, photos, "--target-ms", "1e-6", "--shed", "oldest", *queued)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["shed"], line["outputs"]) for line in lines] == [(True, {})] * 6


def test_folders_that_are_named_after_classes_give_the_accuracy(call, model, photos, tmp_path):
    said, _ = called(call, model, photos, "--skip", "TF")
    assert "right" not in said
    predicted = [each["outputs"][""]["class"] for each in said["predictions"]]
    wrong = next(name for name in LABELS if name != predicted[0])
    for number, name in enumerate([wrong, *predicted[1:5]]):  # one is wrong, and one lies in no class's folder
        (tmp_path / "sorted" / name).mkdir(parents=True, exist_ok=True)
        (photos / f"{number}.png").rename(tmp_path / "sorted" / name / f"{number}.png")
    said, _ = called(call, model, photos, tmp_path / "sorted", "--skip", "TF", "--repeat", "2")
    assert (said["in_class_folders"], said["right"]) == (5, 4)
    assert "accuracy" not in said  # which was another name of what is expected
    assert [each.get("folder") for each in said["predictions"] if "0.png" in each["image"]] == [wrong]
    _, out, _ = call("run", model, photos, tmp_path / "sorted", "--skip", "TF")
    assert out.splitlines()[-1] == "Measured, by the folders' names: 4 of 5 images right, 80.0 %"


def test_images_that_come_at_a_pace_wait_and_their_waiting_counts(call, model, photos):
    said, _ = called(call, model, photos, "--target-ms", "60000", "--pace", "500", "--repeat", "3")
    assert (said["images"], said["shed"], said["misses"], said["met_percent"]) == (18, 0, 0, 100)
    assert said["depths"] == {"FF": 18}
    assert said["waited_p95_ms"] >= said["waited_mean_ms"] > 0
    status, out, _ = call("run", model, photos, "--target-ms", "60000", "--pace", "500", "--shed", "oldest")
    assert status == 0
    assert "Deadline: 60000 ms met by 100.0 %, 0 missed, 0 turned away\nWaiting: " in out


@pytest.mark.parametrize("shed", ["oldest", "newest"])
def test_images_that_are_too_late_are_turned_away(call, model, photos, shed):
    said, _ = called(call, model, photos, "--target-ms", "1e-6", "--pace", "500", "--shed", shed)
    assert (said["images"], said["shed"], said["predictions"]) == (0, 6, [])
    status, out, _ = call("run", model, photos, "--target-ms", "1e-6", "--pace", "500", "--shed", shed)
    assert (status, out.splitlines()[1]) == (0, "Turned away: 6")
    assert re.match(
        r"Preparing an image takes \S+ ms, more than the deadline of 1e-06 ms, so no depth can meet it: ",
        out.splitlines()[2],
    )


def test_one_depth_that_waits(call, described, photos):
    """For comparison; also of a file that does not know how good its depths are."""
    said, _ = called(
        call,
        described(trade_offs=None),
        photos,
        "--skip",
        "TT",
        "--target-ms",
        "60000",
        "--pace",
        "500",
        "--shed=oldest",
    )
    assert (said["depths"], said["shed"], said["expected"]) == ({"TT": 6}, 0, None)


class FourHeads(nn.Module):
    """One class, several labels, two numbers, and the class of each pixel."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.heads = nn.ModuleDict({name: nn.Conv2d(3, n, 1) for name, n in (("kind", 5), ("tags", 5), ("size", 2))})
        self.pixels = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        x = self.blocks(x)
        return {name: head(x).mean((2, 3)) for name, head in self.heads.items()} | {"pixels": self.pixels(x)}


def test_every_head_in_turn(call, photos, tmp_path):
    torch.manual_seed(0)
    network = ad.adapt(FourHeads(), [ad.Stage(("blocks.0",), ("blocks.1",))], example=torch.randn(2, 3, 16, 16)).eval()
    heads = {"kind": ad.tasks.Classification(), "tags": ad.tasks.MultiLabel(), "size": ad.tasks.Regression(unit="m")}
    task = ad.tasks.Heads(heads | {"pixels": ad.tasks.Segmentation()})
    file, options = tmp_path / "heads.onnx", {"data": DATA, "meanings": task.meanings()}
    export_network(network, file, torch.randn(1, 3, 16, 16), **options)
    status, out, err = call("run", file, photos / "0.png", "--skip=T")
    assert status == 0, err
    with torch.no_grad():
        given = torch.from_numpy(prepare(read_image(photos / "0.png"), PREPROCESSING)[None])
        found = {name: output[0] for name, output in network(given, skip="T").items()}
    shares = found["kind"].softmax(0)
    kind = f"kind: {LABELS[int(shares.argmax())]} {100 * float(shares.max()):.1f} %"
    scores = found["tags"].sigmoid()
    tags = ", ".join(
        f"{LABELS[i]} {100 * float(scores[i]):.1f} %" for i in scores.argsort(descending=True) if scores[i] > 0.5
    )
    size = f"size: {found['size'][0]:.4g}, {found['size'][1]:.4g} m"
    parts = torch.bincount(found["pixels"].argmax(0).flatten(), minlength=5) / 256
    pixels = ", ".join(f"{LABELS[i]} {100 * float(parts[i]):.1f} %" for i in parts.argsort(descending=True) if parts[i])
    assert len(tags.split(",")) in (1, 2, 3, 4)  # some, not all
    assert out.splitlines()[0] == f"{photos / '0.png'}  T  {kind}; tags: {tags}; {size}; pixels: {pixels}"
    outputs = json.loads(call("run", file, photos / "0.png", "--skip=T", "--json")[1])["predictions"][0]["outputs"]
    assert {name: [*values] for name, values in outputs.items()} == {
        "kind": ["class", "score"],
        "tags": ["labels"],
        "size": ["numbers", "unit"],
        "pixels": ["shares"],
    }


def test_for_some_seconds(call, model, photos):
    said, _ = called(call, model, photos, "--skip", "TT", "--seconds", "0.3")
    assert said["images"] > 6
    assert 0.3 <= said["seconds"] < 5


def test_other_backends_run_a_run_folder(call, run, pictures):
    folder = pictures / "val"
    said, _ = called(call, run, folder, "--target-ms", "1000", "--backend", "eager", "--threads", "1")
    accuracy = json.loads((run / "accuracy.json").read_text())["accuracy"]
    assert (said["images"], said["backend"]) == (12, "eager")
    assert said["expected"] == pytest.approx(max(accuracy.values()))
    assert len(said["table"]["rows"]) == 16
    (run / "profile.json").unlink()
    one, _ = called(call, run, folder / "left", "--skip", "TTTT")
    assert (one["images"], one["expected"], one["depths"]) == (4, None, {"TTTT": 4})


def test_a_run_folder_prepares_as_its_training_says(call, run, pictures, shown):
    network, config = ad.load(run), json.loads((run / "data.json").read_text())
    called(call, run, pictures / "val" / "left" / "0.png", "--skip", "FFFF")
    preprocessing = Preprocessing(
        **{field: config[field] for field in Preprocessing.__dataclass_fields__ if field in config}
    )
    x = prepare(read_image(pictures / "val" / "left" / "0.png"), preprocessing)[None]
    with torch.no_grad():
        shares = network.eval()(torch.from_numpy(x))[0].softmax(0)
    values = shown[0].predictions[0].values
    assert values["class"] == ("left", "middle", "right")[int(shares.argmax())]
    assert values["score"] == pytest.approx(float(shares.max()), abs=1e-4)


def test_the_accuracy_of_the_file_itself_counts(call, described, photos):
    own = dict(zip(ACCURACY, (78.0, 70.0, 66.0, 50.0), strict=True))
    said, _ = called(call, described(accuracy=own), photos, "--target-ms", "1000")
    assert said["expected"] == 78.0
    assert [row["accuracy"] for row in said["table"]["rows"]] == list(own.values())


ERRORS = replace(
    TABLE,
    rows=tuple(replace(row, accuracy=round(1 - row.accuracy / 100, 2)) for row in TABLE.rows),
    quality=Quality("RMSE", "m", higher_is_better=False),
)


def test_a_network_that_is_judged_by_an_error_runs_the_lowest_that_fits(call, described, photos, shown):
    regression = described(trade_offs=ERRORS, labels=())
    said, _ = called(call, regression, photos, "--target-ms", "1000")
    assert said["depths"] == {"FF": 6}  # 0.2 m, where TT has 0.4 m
    assert said["expected"] == pytest.approx(0.2)
    assert said["quality"] == {"name": "RMSE", "unit": "m", "higher_is_better": False}
    assert ad.TradeOffs.from_json(said["table"]).quality == ERRORS.quality
    assert not any("class" in passed.predictions[0].values for passed in shown)
    status, out, _ = call("run", regression, photos, "--target-ms", "1000")
    assert (status, out.splitlines()[-1]) == (0, "RMSE: 0.200 m expected at these depths")


def test_a_top_1_of_the_file_beside_errors_is_refused(call, described, photos):
    both = described(trade_offs=ERRORS, accuracy=ACCURACY)
    status, out, err = call("run", both, photos, "--target-ms", "1000")
    assert (status, out) == (2, "")
    assert "measured by top-1 (%), but its trade-offs are of RMSE (m, lower is better): expected the same" in err
    said, _ = called(call, both, photos, "--skip", "TT")
    assert said["expected"] == pytest.approx(0.4)


def test_images_become_as_large_as_the_file_takes_them(call, described, photos):
    larger = described(preprocessing=replace(PREPROCESSING, image_size=24).to_json())
    assert called(call, larger, photos, "--skip", "FF")[0]["images"] == 6


# -- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--target-ms", "30"], "no images given: .* such as adaptive-depth run model.onnx photos/"),
        (["MODEL", "PHOTOS"], "no deadline: expected --target-ms or --images-per-s .*, or one --skip"),
        (["MODEL", "PHOTOS", "--target-ms", "nan"], "--target-ms nan: expected a finite number above 0"),
        (["MODEL", "PHOTOS", "--images-per-s", "0"], "--images-per-s 0.0: expected a finite number above 0"),
        (["MODEL", "PHOTOS", "--skip", "FF", "--seconds", "-1"], "--seconds -1.0: expected a finite number above 0"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--images-per-s", "5"], "give only one of them"),
        (
            ["MODEL", "PHOTOS", "--skip", "FF", "--repeat", "2", "--seconds", "5"],
            "--repeat and --seconds: give only one",
        ),
        (["MODEL", "PHOTOS", "--skip", "FF", "--log", "LOG"], "--log .*: with --skip there is no governor"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--log", "PHOTOS"], "--log .*photos cannot be written"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--log", "PHOTOS/none/log"], "--log .*log cannot be written"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--log", "PHOTOS/0.png"], "0.png has other content"),
        (
            ["MODEL", "PHOTOS", "--target-ms", "30", "--shed", "oldest"],
            "--shed: images from files do not wait.*--pace 25",
        ),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--pace", "9", "--shed", "all"], "expected oldest, newest or none"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--pace", "0"], "--pace 0.0: expected a finite number above 0"),
        (["MODEL", "PHOTOS", "--skip", "FF", "--pace", "9"], "need a deadline: expected --target-ms"),
        (["MODEL", "PHOTOS", "--target-ms", "30", "--pace", "9", "--met", "0.9"], "--met is for the governor"),
        (
            ["MODEL", "PHOTOS", "--target-ms", "30", "--pace", "9", "--log", "LOG"],
            "--log writes a governor's decisions",
        ),
        (["MODEL", "camera", "--target-ms", "30", "--pace", "9"], "--pace: a camera has its own pace"),
        (["MODEL", "PHOTOS", "--skip", "FF", "--min-score", "0.5"], "--min-score applies to detected objects"),
        (["MODEL", "PHOTOS", "--skip", "FFF"], "is for 3 stages, but the network has 2"),
        (["MODEL", "PHOTOS", "--skip", "FF", "--backend", "tensorrt"], "backend='tensorrt': expected one of eager"),
        (["MODEL", "PHOTOS/nothing", "--target-ms", "30"], "nothing does not exist: expected an image, a folder"),
        (["PHOTOS/model.onnx", "PHOTOS", "--target-ms", "30"], "model.onnx does not exist: expected a file that"),
        (["PHOTOS", "PHOTOS", "--target-ms", "30"], "photos is a folder: expected a file that ends in"),
    ],
)
def test_a_wrong_command_line(call, model, photos, tmp_path, arguments, message):
    places = {"MODEL": str(model), "PHOTOS": str(photos), "LOG": str(tmp_path / "log")}
    before = sorted(tmp_path.rglob("*"))
    status, out, err = call("run", *(re.sub("MODEL|PHOTOS|LOG", lambda name: places[name[0]], a) for a in arguments))
    assert (status, out) == (2, "")
    assert re.search(message, err), err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("fields", "option", "message"),
    [
        (
            {"trade_offs": None},
            "--target-ms=30",
            "does not contain the quality of its depths.*adaptive-depth evaluate.*--skip FF$",
        ),
        ({"preprocessing": None}, "--target-ms=30", "does not say how images are prepared: export a run"),
        ({"input_shape": (4, 3, 16, 16)}, "--skip=FF", "takes 4 images at a time, but run passes one"),
        (
            {"preprocessing": PREPROCESSING.to_json() | {"interpolation": "cubic"}},
            "--skip=FF",
            "has an invalid description .*interpolation='cubic': expected one of",
        ),
    ],
)
def test_a_file_that_says_too_little(call, described, photos, fields, option, message):
    status, out, err = call("run", described(**fields), photos, option)
    assert (status, out) == (2, "")
    assert re.search(message, err.strip()), err


def test_a_file_without_accuracies_runs_one_depth(call, described, photos):
    said, _ = called(call, described(trade_offs=None), photos, "--skip", "TT")
    assert (said["depths"], said["expected"]) == ({"TT": 6}, None)


def test_a_run_folder_that_was_not_evaluated_says_how(call, run, pictures):
    (run / "accuracy.json").unlink()
    status, _, err = call("run", run, pictures, "--target-ms", "30")
    assert status == 2
    assert re.search(r"accuracy\.json does not exist: measure it with .*evaluate", err)


def test_no_image_that_can_be_read(call, model, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    status, out, err = call("run", model, tmp_path, "--target-ms", "30", "--seconds", "5")
    assert (status, out) == (2, "")
    assert "none of the images can be read: image" in err.splitlines()[-1]


def test_a_backend_that_fails_now_and_then_goes_on(call, model, photos, monkeypatch):
    from adaptive_depth.deploy.onnx.run import OnnxBackend

    works, passes = OnnxBackend.run, []

    def failing(self, x, skip):
        passes.append(skip)
        if len(passes) in (5, 6, 8):  # two for the warm-up, then images 3, 4 and 6
            raise RuntimeError(f"no memory at {len(passes)}")
        return works(self, x, skip)

    monkeypatch.setattr(OnnxBackend, "run", failing)
    said, err = called(call, model, photos, "--skip", "FF")
    assert (said["images"], said["failures"]) == (3, 3)
    lines = err.splitlines()
    assert len(lines) == 2  # one for those in a row
    assert re.fullmatch(r"Failed: .*2\.png: onnxruntime failed at depth FF .*: no memory at 5", lines[0])
    assert lines[1].endswith("no memory at 8")


def test_a_backend_that_fails_for_good_ends_with_its_error_after_the_summary(call, model, photos, monkeypatch):
    from adaptive_depth.deploy.onnx.run import OnnxBackend

    works, passes = OnnxBackend.run, []

    def failing(self, x, skip):
        passes.append(skip)
        if len(passes) > 2 + 4:
            raise RuntimeError("the device is gone")
        return works(self, x, skip)

    monkeypatch.setattr(OnnxBackend, "run", failing)
    status, out, err = call("run", model, photos, "--skip", "FF", "--repeat", "5")
    assert status == 2
    assert re.search(r"(?m)^Images: 4 in .*, 10 failed\n", out)
    assert re.search(r"Error: 10 passes in a row failed, the last one with: .*: the device is gone$", err.strip())
    assert len(passes) == 16


# -- processes --------------------------------------------------------------------------------------------------


def test_an_exported_file_runs_without_torch(model, photos):
    """Neither the commands nor a session, nor the governor, nor the images need it."""
    program = (
        "import sys\n"
        "from adaptive_depth.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "loaded = [name for name in ('torch', 'torchvision', 'timm', 'matplotlib') if name in sys.modules]\n"
        "print(status, loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", model, photos, "--target-ms", "1000"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert "\nImages: 6 in" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 []"


def test_ctrl_c_ends_with_the_summary(model, photos):
    (photos / "1.png").write_text("no image")  # told when the first image has run
    program = (  # also where Ctrl-C is ignored by whoever runs the tests
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from adaptive_depth.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "run", model, photos, "--skip=TT", "--seconds=100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Left out: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"(?m)^Images: \d+ in .*, 1 left out, interrupted\n", out)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of another kind")
def test_the_view_in_a_terminal(model, photos):
    (photos / "[red]x.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "9.png").write_text("no image")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "adaptive_depth", "run", model, photos, "--target-ms=1000", "--seconds=1"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
        text=True,
    ) as process:
        os.close(theirs)
        written = _all_of(ours)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\nImages: " in out
    assert "\x1b" not in out
    for words in ("measuring 4 depths on this machine", "depth     \x1b[1mFF", "of 1000 ms", "slowdown", "Left out: "):
        assert words in written
    assert re.search(r"latency +\x1b\[32m\d+\.\d ms of 1000 ms", written)
    assert 3 <= written.count("slowdown") <= 13  # ten times a second, and once more at the end


def _all_of(terminal):
    written = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # nobody writes any more
            part = b""
        if not part:
            os.close(terminal)
            return written.decode()
        written += part


# -- the view ---------------------------------------------------------------------------------------------------


DOG = Prediction("", "dog 87.5 %", {"class": "dog", "score": 0.875})


def printed(*arguments):
    written = StringIO()
    Console(width=80, file=written).print(live.draw(*arguments))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_the_view_says_what_was_counted():
    tally = Tally(10.0, ACCURACY)
    for skip, latency in (("FF", 8.0), ("FF", 8.0), ("FF", 12.0), ("TT", 5.0)):
        tally.add(Pass("[b]a.png", skip, 1.0, latency, (DOG,)))
    tally.add(Pass("[b]a.png", "TT", 1.0))
    assert printed(Pass("[b]a.png", "FF", 1.0, 12.0, (DOG,)), tally, 1.5) == [
        "image     [b]a.png",
        "output    dog 87.5 %",
        "depth     FF",
        "latency   12.0 ms of 10 ms, missed",
        "images    4, 1 missed (25.0 %), 1 failed",
        "accuracy  75.00 % expected",
        "slowdown  1.50 times its quiet latency",
        "FF        ██████████████████        75.0 %",
        "TT        ██████                    25.0 %",
    ]


def test_the_view_names_another_quality_and_no_classes():
    tally = Tally(None, {"FF": 0.25, "TT": 0.5}, Quality("[b]error", "m", higher_is_better=False))
    for skip in ("FF", "TT"):
        tally.add(Pass("a.png", skip, 1.0, 8.0))
    said = printed(Pass("a.png", "TT", 1.0, 8.0), tally, None)
    assert [line.split()[0] for line in said] == ["image", "depth", "latency", "images", "[b]error", "FF", "TT"]
    assert said[4] == "[b]error  0.375 m expected"


def test_the_view_of_a_failed_pass_without_deadline():
    tally, failed = Tally(None, {}), Pass("a.png", "FF", 1.0, error=ArtifactError("broken"))
    tally.add(failed)
    assert printed(failed, tally, None) == [
        "image    a.png",
        "depth    FF",
        "latency  failed",
        "images   0, 1 failed",
    ]


def test_the_view_is_drawn_ten_times_a_second_at_most(monkeypatch):
    class Drawn:
        times = 0

        def update(self, view, *, refresh):
            assert refresh
            self.times += 1

    now, drawn = [5.0], Drawn()
    monkeypatch.setattr(live, "monotonic", lambda: now[0])
    view, tally = live.View(drawn), Tally(None, {})
    tally.add(Pass("a.png", "FF", 1.0, 2.0))
    for step in range(1000):  # ten seconds
        now[0] = 5.0 + step / 100
        view.show(Pass("a.png", "FF", 1.0, 2.0), tally, None)
    assert 90 <= drawn.times <= 100

"""adaptive-depth export, on a small run: what it writes, what it says, and what it refuses."""

import json

import numpy as np
import pytest

import adaptive_depth as ad
from adaptive_depth.cli import runs
from adaptive_depth.data import create_loader


def test_a_run_becomes_one_file_that_carries_all_a_runtime_needs(call, run):
    status, out, err = call("export", run, "--to", "onnx")
    file = run / "export" / "model.onnx"
    assert (status, err) == (0, "")
    assert f"Written to {file}, {file.stat().st_size / 1e6:.1f} MB: onnx of 16 depths, float32, norms shared" in out
    assert "At every depth its outputs match the network's, to 1e-4" in out
    assert f"run {file} IMAGES --target-ms 30" in out
    session, network, data = ad.open_session(file), ad.load(run), runs.read_data(run)
    assert session.skips == network.skips
    assert session.artifact.labels == ("left", "middle", "right") == data.classes
    assert session.artifact.preprocessing == ad.Preprocessing(
        24, 1, data.mean, data.std, data.interpolation, data.crop_pct
    )
    assert session.artifact.trade_offs == runs.trade_offs(run)
    assert session.artifact.network == network.fingerprint
    assert sorted(file.parent.iterdir()) == [file, file.with_name("model.onnx.json")]


def test_a_page_for_browsers(call, run, javascript):
    status, out, err = call("export", run, "--to=web", "--runtime", javascript / "node_modules" / "onnxruntime-web")
    place = run / "export" / "web"
    assert (status, err) == (0, "")
    assert f"python -m http.server --bind 127.0.0.1 --directory {place}" in out
    assert (place / "index.html").exists()
    assert ad.open_session(place / "model.onnx").artifact.labels == ("left", "middle", "right")


def test_some_depths_as_json_and_without_a_profile_the_multiply_adds(call, run, tmp_path):
    (run / "profile.json").unlink()
    file = tmp_path / "two" / "small.onnx"
    status, out, _ = call("export", run, f"--output={file}", "--skips=TTTT, FFFF", "--form=folded", "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["file"], told["bytes"]) == (str(file), file.stat().st_size)
    assert (told["kind"], told["skips"], told["form"]) == ("onnx", ["FFFF", "TTTT"], "folded")
    assert [(row["skip"], row["latency_ms"]) for row in told["trade_offs"]["rows"]] == [("FFFF", None), ("TTTT", None)]
    assert told["trade_offs"]["rows"][0]["macs"] > told["trade_offs"]["rows"][1]["macs"] > 0


def test_int8_tells_the_accuracy_of_each_depth_beside_float(call, run):
    measured = json.loads((run / "accuracy.json").read_text())["accuracy"]
    status, out, _ = call("export", run, "--to=openvino", "--int8", "--images=20", "--skips=FFFF,TTTT")
    assert status == 0
    assert "openvino of 2 depths, int8" in out
    session = ad.open_session(run / "export" / "model-int8.xml")
    accuracy = session.artifact.accuracy
    assert accuracy is not None
    for skip in ("FFFF", "TTTT"):
        assert f"{skip} {measured[skip]:>20.2f} {accuracy[skip]:>8.2f}".split() in [
            line.split() for line in out.splitlines()
        ]
    loader = create_loader(runs.read_data(run), "validation", batch_size=12)
    (x, y) = next(iter(loader))
    right = np.mean(session(x, "TTTT").argmax(1) == y.numpy())
    assert accuracy["TTTT"] == pytest.approx(100 * right)


def test_a_model_by_name_needs_a_place(call, tmp_path):
    small = ["--model-kwargs=channels=[4,4,8,8]", "--image-size=32"]
    status, _, err = call("export", "resnet18", "--to=onnx", *small)
    assert (status, "resnet18 is not a run folder: name the file to write with --output FILE" in err) == (2, True)
    status, out, _ = call("export", "resnet18", f"--output={tmp_path / 'm.onnx'}", "--skips=FFFF", *small)
    assert (status, "It contains no quality of its depths, so a governor cannot choose" in out) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the format with --to: one of onnx, onnx-files, openvino, executorch, web, torch"),
        (["--to=tflite"], "--to 'tflite': expected one of onnx, onnx-files, openvino, executorch, web, torch"),
        (["--output=model.bin"], "the format of model.bin is unclear"),
        (["--to=onnx", "--output=model.pte"], "the ending of model.pte does not match its format: expected a name"),
        (["--to=onnx", "--int8"], "--int8 is available for onnx-files and openvino, not for onnx"),
        (["--to=openvino", "--form=folded"], "form='folded' for openvino: expected shared"),
        (["--to=onnx", "--skips=FFT"], "skip 'FFT' is for 3 stages, but the network has 4"),
        (["--to=onnx", "--compiled"], "onnx does not take compiled"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(call, run, monkeypatch, options, message):
    monkeypatch.chdir(run)
    before = sorted(run.rglob("*"))
    status, out, err = call("export", run, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path for path in sorted(run.rglob("*")) if path.name != "export"] == before


def test_int8_needs_images(call, tmp_path):
    options = ["--to=openvino", "--int8", f"--output={tmp_path / 'm.xml'}", "--model-kwargs=channels=[4,4,8,8]"]
    status, _, err = call("export", "resnet18", *options)
    assert (status, "--int8 needs images to measure the ranges of activations: expected a run" in err) == (2, True)


def test_what_was_exported_of_a_former_network_goes_with_it(call, run, train_arguments):
    (run / "export").mkdir()
    (run / "export" / "model.onnx").write_text("of the former network")
    status, _, _ = call(*train_arguments, f"--output={run}", "--overwrite")
    assert (status, (run / "export").exists()) == (0, False)

"""serve: a process as a user starts it, that answers over HTTP and ends when it is told to."""

import io
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import adaptive_depth as ad
from adaptive_depth.cli import main
from adaptive_depth.cli.serve import _opened, application, open_one
from adaptive_depth.serve.metrics import Metrics, Prometheus
from adaptive_depth.serve.opening import Settings

from ..pets import IMAGES, write_pets


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("exported") / "pets.onnx")


@contextmanager
def started(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server in a process of its own, and the process."""
    command = [sys.executable, "-m", "adaptive_depth", "serve", *map(str, arguments), "--port=0"]
    settings = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | settings)
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"Ready\. Try: curl (http://[^/ ]+)/", line):
                yield found[1], process
                return
        raise AssertionError(f"the server did not start: {''.join(said)}")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_two_models_in_a_process_that_ends_well(model: Path, told: signal.Signals) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(stream, "JPEG")
    with started(model, f"other={model}", "--target-ms=1000", "--max-batch=4", "--local") as (server, process):
        assert server.startswith("http://127.0.0.1:")
        models = httpx.get(f"{server}/v1/models").json()["data"]
        assert [each["id"] for each in models] == ["pets", "other"]
        assert all([*depth["latency_ms"]] == ["1", "4"] for each in models for depth in each["depths"])
        told_of = httpx.post(f"{server}/models/other/predict?skip=T", content=stream.getvalue()).json()
        assert told_of["skip"] == "T"
        assert told_of["predictions"][0]["values"]["class"] in IMAGES.classes
        session = ad.open_session(model)
        x = ad.prepare(Image.open(stream).convert("RGB"), IMAGES)[None]
        wanted = session(x, "F").argmax()
        found = httpx.post(f"{server}/models/pets/predict?skip=F", content=stream.getvalue()).json()
        assert found["predictions"][0]["values"]["class"] == IMAGES.classes[wanted]
        assert "adaptive_depth_served_total" in httpx.get(f"{server}/metrics").text
        process.send_signal(told)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "Stopped.\n"


@pytest.mark.slow
@pytest.mark.alone
def test_models_of_a_process_take_turns_on_one_device(model: Path) -> None:
    settings = Settings(1000.0, max_batch=1)
    made = {name: partial(open_one, name, model, settings, None, 1, None) for name in ("cats", "dogs")}
    models, writers = _opened(made, {}, Metrics(Prometheus()))
    assert writers == {}
    assert models["cats"].batcher._device is models["dogs"].batcher._device


def test_the_same_on_ray(model: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(stream, "PNG")
    with started(model, "--target-ms=1000") as (server, process):
        told = httpx.post(f"{server}/models/pets/predict?skip=T", content=stream.getvalue()).json()
        assert told["skip"] == "T"
        assert told["predictions"][0]["values"]["class"] in IMAGES.classes
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read().endswith("Finishing the requests in progress ...\nStopped.\n")


@pytest.mark.filterwarnings("ignore")  # of Ray, when it is imported
def test_what_a_configuration_file_of_ray_names(model: Path) -> None:
    from adaptive_depth.serve.on_ray import importable

    with importable():
        made = application({"artifacts": {"pets": str(model)}, "target_ms": 50, "max_batch": 4})
    assert type(made).__name__ == "Application"
    with pytest.raises(ad.errors.DataError, match="artifacts"):
        application({"target_ms": 50})
    with pytest.raises(ad.errors.DataError, match="max_batches"):
        application({"artifacts": {"pets": str(model)}, "target_ms": 50, "max_batches": 4})


def test_a_port_that_is_taken_is_found_before_anything_is_measured(call, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = call("serve", model, "--target-ms=50", f"--port={port}")
    assert (status, out) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "such as --host 127.0.0.1 --port 8001" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{model}"], "no target: expected --target-ms"),
        (["{model}", "--target-ms=0"], "--target-ms 0.0: expected a finite number above 0"),
        (["{model}", "{model}", "--target-ms=50"], "are both called pets: rename one, such as other="),
        (["cat's={model}", "--target-ms=50"], '"cat\'s" cannot be part of a URL: give it a name, such as cats='),
        (["missing.onnx", "--target-ms=50", "--port=0", "--local"], "missing.onnx does not exist"),
        (["{model}", "--target-ms=50", "--host=192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
        (["{model}", "--target-ms=50", "--port=0", "--local", "--shed=random"], "expected one of oldest, newest, none"),
        (["{model}", "--target-ms=50", "--port=0", "--local", "--no-measure"], "no latencies for batches of 8"),
        (["{model}", "--target-ms=50", "--port=0", "--local", "--worth=F:1"], "expected a number for each depth"),
        (["{model}", "--target-ms=50", "--port=0", "--local", "--skip=TT"], "skip=TT is not in pets"),
        (["{model}", "--target-ms=50", "--max-megabytes=nan"], "--max-megabytes nan: expected a finite number"),
    ],
)
def test_command_lines_that_cannot_be_served(call, model: Path, arguments: list[str], said: str) -> None:
    status, out, err = call("serve", *(each.format(model=model) for each in arguments))
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_language_model(model: Path, tmp_path: Path) -> None:
    text = Path(__file__).with_name("test_text.py")
    made = runpy.run_path(str(text))
    folder = made["write_model"](tmp_path / "model")
    (tmp_path / "notes.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    options = ["--steps=1", "--context=32", "--batch-size=2", "--device=cpu"]
    assert (
        main(["text", "train", str(folder), str(tmp_path / "notes.txt"), f"--out={tmp_path / 'book'}", *options]) == 0
    )
    with started(tmp_path / "book", model, "--target-ms=1000", "--max-batch=1", "--local") as (server, process):
        depths = [each["skip"] for each in httpx.get(f"{server}/v1/models/book").json()["depths"]]
        asked = {"model": "book", "prompt": "Once", "max_tokens": 4, "skip": depths[-1]}
        told = httpx.post(f"{server}/v1/completions", json=asked, timeout=30).json()
        assert told["skip"] == depths[-1]
        assert told["usage"]["completion_tokens"] >= 1
        assert [each["id"] for each in httpx.get(f"{server}/v1/models").json()["data"]] == ["pets", "book"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

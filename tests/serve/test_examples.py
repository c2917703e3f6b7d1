"""The examples run as a user starts them."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ..pets import write_pets

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTINGS = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": ""}
pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("exported") / "pets.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, noise = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        Image.fromarray(noise.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def test_the_scheduler_inside_litserve(model: Path, photos: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(EXAMPLES / "serve_with_litserve.py")
    command = [sys.executable, program, str(model), "--target-ms=1000", f"--port={port}"]
    process = subprocess.Popen(command, env=os.environ | SETTINGS, start_new_session=True, stderr=subprocess.PIPE)
    try:
        image = base64.b64encode((photos / "0.png").read_bytes()).decode()
        address, end = f"http://127.0.0.1:{port}/predict", time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        told = httpx.post(address, json={"image": image, "skip": "T"}, timeout=20).json()
        assert told["skip"] == "T"
        assert told["predictions"][0]["values"]["class"] in ("cat", "dog", "hen")
        assert httpx.post(address, json={"image": image, "skip": "TT"}, timeout=20).status_code == 422
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_folder_of_images_with_ray_data_goes_on_where_it_was_interrupted(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    command = [sys.executable, str(EXAMPLES / "predict_with_ray_data.py"), str(model), str(photos), str(answers)]
    command += ["--skip=T", "--chunk=2"]
    answers.mkdir()
    done = [{"image": str(photos / f"{number}.png"), "text": "before"} for number in range(3)]
    (answers / "000000000.jsonl").write_text("".join(json.dumps(each) + "\n" for each in done))
    (answers / "000000003.part").write_text("cut o")
    (photos / "4.png").write_bytes(b"no image")
    ended = subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "3 images are done, 2 are left" in ended.stdout
    lines = [json.loads(line) for file in sorted(answers.glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert [Path(each["image"]).name for each in lines] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [each["text"] for each in lines[:3]] == ["before"] * 3
    assert re.fullmatch(r"(cat|dog|hen) [\d.]+ %", lines[3]["text"])
    assert "cannot be read" in lines[4]["text"]

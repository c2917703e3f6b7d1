"""The wheel in a fresh environment: what runs on a device comes without torch, each runtime with its own extra."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptive_depth.packages import _EXTRAS, install, missing

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")

GOVERNED = """
import sys
import numpy as np
from adaptive_depth import Governor, open_session
session = open_session(sys.argv[1])
governor = Governor(session.artifact.trade_offs, target_ms=1000.0)
x = np.zeros([side or 1 for side in session.artifact.input_shape], np.float32)
for _ in range(3):
    decision = governor.choose()
    out = session(x, decision)
    governor.observe(decision, 1.0)
assert np.isfinite(out).all()
print({depth: session(x, depth).ravel().tolist() for depth in session.skips})
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., str]:
    """Run a program of a fresh environment, in which the wheel is and nothing else; its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: object, status: int = 0) -> str:
        done = subprocess.run(
            [*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT)
    run(sys.executable, "-m", "venv", tmp_path / "fresh")
    return run


@pytest.mark.slow
def test_what_runs_on_a_device_needs_no_torch(fresh, run: Path, call, tmp_path: Path) -> None:
    """One environment, that grows: nothing, then ONNX Runtime, then OpenVINO."""
    for name in ("model.onnx", "model.xml"):
        assert call("export", run, "--output", run / name)[0] == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    python, command = (tmp_path / "fresh/bin" / name for name in ("python", "adaptive-depth"))
    (wheel,) = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        packed = {*archive.namelist()}  # what export --to web needs of an installed package
    assert {f"adaptive_depth/deploy/web/javascript/{name}" for name in ("page/index.html", "src/index.js")} <= packed

    def add(extra: str = "") -> None:
        fresh(python, *PIP, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}{extra}")

    add()
    fresh(python, "-c", "import importlib.util, sys; sys.exit(bool(importlib.util.find_spec('torch')))")
    assert "Start with  adaptive-depth demo" in fresh(command, "--help")
    assert json.loads(fresh(command, "select", run, "--latency-ms", "1e6", "--json"))["front"]
    fresh(command, "report", run)
    assert (run / "report.html").stat().st_size > 1000
    for name, extra in (("model.onnx", "onnx"), ("model.xml", "openvino")):
        said = fresh(command, "run", run / name, "photo.png", "--target-ms", "1000", status=2)
        assert said.rstrip().endswith(install(extra))
        add(f"[{extra}]")
        predictions = json.loads(fresh(command, "run", run / name, "photo.png", "--target-ms", "1000", "--json"))
        assert len(predictions["predictions"]) == 1
        fresh(python, "-c", GOVERNED, run / name)

    said = fresh(command, "stages", "resnet18", status=2)
    assert said == f"Error: this command needs torch, which is not installed: {install('train')}\n"
    said = fresh(python, "-c", "import adaptive_depth; adaptive_depth.adapt", status=1)
    assert said.rstrip().endswith(f"adaptive_depth.adapt needs torch, which is not installed: {install('train')}")


def test_every_extra_that_is_named_exists() -> None:
    import tomllib

    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_EXTRAS.values()) <= told["optional-dependencies"].keys()
    usual = " ".join(told["dependencies"])
    assert not any(package in usual for package in _EXTRAS)


def test_an_error_of_another_kind_stays_as_it_is() -> None:
    assert missing(ImportError("libcudart.so.12: cannot open", name="torch"), "x") is None
    assert missing(ModuleNotFoundError("No module named 'mine'", name="mine"), "x") is None

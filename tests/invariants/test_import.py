"""`import adaptive_depth` loads no package that is optional or that only a command needs."""

import json
import subprocess
import sys

OPTIONAL = {"accelerate", "datasets", "executorch", "fvcore", "matplotlib", "onnx", "onnxruntime", "openvino", "pytest"}
OPTIONAL |= {"pytorch_grad_cam", "pytorch_lightning", "rich", "sklearn", "tensorboard", "transformers", "typer"}
OPTIONAL |= {"wandb", "webdataset", "zeus"}


def loaded_by(package: str) -> set[str]:
    code = f"import {package}, json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_import_loads_nothing_optional() -> None:
    loaded = loaded_by("adaptive_depth")
    assert "torch" in loaded
    assert not OPTIONAL & loaded - loaded_by("timm")  # timm itself loads wandb where that is installed

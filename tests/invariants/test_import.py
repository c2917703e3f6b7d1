"""`import adaptive_depth` loads no package that is optional or that only a command needs."""

import json
import subprocess
import sys

OPTIONAL = {"accelerate", "datasets", "executorch", "fvcore", "matplotlib", "onnx", "onnxruntime", "openvino", "pytest"}
OPTIONAL |= {"pytorch_grad_cam", "rich", "sklearn", "tensorboard", "transformers", "typer", "wandb", "zeus"}


def test_import_loads_nothing_optional() -> None:
    code = "import adaptive_depth, json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "torch" in loaded
    assert not OPTIONAL & set(loaded)

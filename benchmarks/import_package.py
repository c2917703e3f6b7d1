"""Does `import adaptive_depth` load an optional package, or one that only some commands need?"""

import json
import subprocess
import sys

from measure import report

OPTIONAL = [
    "accelerate",
    "datasets",
    "executorch",
    "fvcore",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pytest",
    "pytorch_grad_cam",
    "rich",
    "sklearn",
    "tensorboard",
    "transformers",
    "typer",
    "wandb",
    "zeus",
]


def main() -> None:
    code = "import json, sys, adaptive_depth; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    found = sorted(set(OPTIONAL) & set(loaded))
    report("import_package", {"target": "none", "loaded": found, "looked for": OPTIONAL}, passed=not found)


if __name__ == "__main__":
    main()

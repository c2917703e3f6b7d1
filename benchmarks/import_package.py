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
    "pytorch_lightning",
    "rich",
    "sklearn",
    "tensorboard",
    "transformers",
    "typer",
    "wandb",
    "webdataset",
    "zeus",
]


def loaded_by(package: str) -> set[str]:
    code = f"import json, sys, {package}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def main() -> None:
    there = loaded_by("timm")  # which loads wandb, where that is installed
    found = sorted(set(OPTIONAL) & loaded_by("adaptive_depth") - there)
    result = {
        "target": "none",
        "loaded": found,
        "looked for": OPTIONAL,
        "by timm itself": sorted(there & set(OPTIONAL)),
    }
    report("import_package", result, passed=not found)


if __name__ == "__main__":
    main()

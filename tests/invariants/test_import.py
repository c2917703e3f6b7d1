"""`import adaptive_depth` loads no package that is optional or that only a command needs."""

import json
import subprocess
import sys

import pytest

import adaptive_depth as ad

OPTIONAL = {"accelerate", "datasets", "executorch", "fvcore", "matplotlib", "onnx", "onnxruntime", "openvino", "pytest"}
OPTIONAL |= {"pytorch_grad_cam", "pytorch_lightning", "rich", "sklearn", "tensorboard", "transformers", "typer"}
OPTIONAL |= {"wandb", "webdataset", "zeus"}


def loaded_by(packages: str, code: str = "") -> set[str]:
    code = f"{code}\nimport {packages}, json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_import_loads_neither_torch_nor_anything_optional() -> None:
    loaded = loaded_by("adaptive_depth")
    assert not {"torch", "timm"} & loaded


def test_values_and_choices_need_no_torch() -> None:
    used = "adaptive_depth.choose.costs, adaptive_depth.choose.tradeoffs, adaptive_depth.training.history"
    used += ", adaptive_depth.cli, adaptive_depth.report, adaptive_depth.analysis.values, adaptive_depth.plotting"
    assert not {"torch", "timm", "matplotlib"} & loaded_by(used)


def test_every_public_name_can_be_used_and_loads_nothing_optional() -> None:
    code = "import adaptive_depth as ad, json, sys; [getattr(ad, name) for name in ad.__all__]"
    loaded = loaded_by("sys", code)
    assert "torch" in loaded
    assert not OPTIONAL & loaded - loaded_by("timm")  # timm itself loads wandb where that is installed


def test_the_names_of_version_0_1_that_are_not_listed_any_more_can_still_be_used() -> None:
    assert len(ad.__all__) <= 45
    for name in ("Row", "Cost", "Decision", "StepResult", "Losses", "TrainingError", "all_skips", "BlockAnalysis"):
        assert name not in dir(ad)
        assert callable(getattr(ad, name))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ad.nothing_of_the_kind

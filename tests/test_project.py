"""What belongs to a project: one version everywhere, and packages that can be built and uploaded."""

import importlib.metadata
import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import adaptive_depth as ad

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_one_version_everywhere() -> None:
    assert ad.__version__ == importlib.metadata.version("adaptive-depth") == VERSION
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION
    assert json.loads((ROOT / "javascript" / "package.json").read_text())["version"] == VERSION
    assert f"## [{VERSION}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_forms_and_workflow_are_yaml_and_run_what_everybody_runs() -> None:
    files = sorted((ROOT / ".github").rglob("*.yml"))
    assert len(files) == 4
    read = {file.name: yaml.safe_load(file.read_text()) for file in files}
    steps = read["test.yml"]["jobs"]["test"]["steps"]
    assert {"run": "make test"} in steps


@pytest.mark.slow
def test_wheel_and_source_can_be_built_and_uploaded(tmp_path: Path) -> None:
    for command in (
        ["build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        [
            "twine",
            "check",
            "--strict",
            *(str(tmp_path / f"adaptive_depth-{VERSION}{end}") for end in (".tar.gz", "-py3-none-any.whl")),
        ],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True)
    with zipfile.ZipFile(tmp_path / f"adaptive_depth-{VERSION}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
    assert "adaptive_depth/py.typed" in names
    assert "adaptive_depth/recipes/resnet50.yaml" in names
    with tarfile.open(tmp_path / f"adaptive_depth-{VERSION}.tar.gz") as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "tests/test_project.py"} <= held
    assert not any("node_modules" in name or name.startswith(".venv") for name in held)

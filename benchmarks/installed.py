"""Installs the wheel into fresh environments: megabytes of each extra, and what `adaptive-depth --help` costs there.

    python installed.py

Sizes are of all files that pip put there, without pip itself. `--help` is timed in seconds of the processor, the median
of a few runs after a first one.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from measure import report

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "onnx", "openvino")
SIZE_MB, HELP_S = 300, 0.5


def pip(python: Path, *arguments: object) -> None:
    quiet = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*map(str, (*quiet, *arguments))], check=True)


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def seconds_of(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def installed(wheel: Path, extra: str, folder: Path) -> dict[str, Any]:
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    empty = megabytes(packages)
    python, name = folder / "bin" / "python", f"{wheel}[{extra}]" if extra else wheel
    pip(python, "install", "--constraint", ROOT / "constraints.txt", name)
    size = megabytes(packages) - empty
    command = [str(folder / "bin" / "adaptive-depth"), "--help"]
    seconds = [seconds_of(command) for _ in range(8)][1:]
    return {"MB": round(size), "seconds of --help": round(statistics.median(seconds), 3)}


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", folder / "wheels", ROOT)
        (wheel,) = (folder / "wheels").iterdir()
        found = {extra or "none": installed(wheel, extra, folder / f"with-{extra or 'none'}") for extra in EXTRAS}
    result = {
        "targets": f"at most {SIZE_MB} MB with ONNX Runtime; --help at most {HELP_S} s of the processor",
        "extras": found,
    }
    within = found["onnx"]["MB"] <= SIZE_MB and all(each["seconds of --help"] <= HELP_S for each in found.values())
    report("installed", result, passed=within)


if __name__ == "__main__":
    main()

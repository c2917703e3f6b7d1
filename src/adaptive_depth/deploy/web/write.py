"""A folder with a page that runs every depth in a browser: the ONNX file, its description, and the runtime.

Nothing is fetched from elsewhere, so any file server will do, and no image leaves the browser.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...core.network import AdaptiveNetwork
from ...errors import ExportError
from ..artifact import Artifact
from ..inputs import Example
from ..onnx import write as onnx
from ..session import Session, open_session
from ..sidecar import write_sidecar

MODEL = "model.onnx"
RUNTIME = "onnxruntime-web"  # an npm package
WASM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # its files, from `dist`
_HERE = Path(__file__)
# Where the JavaScript is: installed, or in a clone. Both contain page/ and src/.
_SOURCES = (_HERE.parent / "javascript", _HERE.parents[4] / "javascript")


def write(
    network: AdaptiveNetwork,
    path: Path,
    example: Example,
    artifact: Artifact,
    *,
    form: str,
    runtime: str | Path | None = None,
) -> None:
    """Write a folder with `index.html`, `model.onnx` and what both need.

    Arguments:
        network: an adapted network.
        path: a folder that does not exist.
        example: an input of the network.
        artifact: the file's description; it must say how images are prepared.
        form: as for ONNX.
        runtime: the folder of the npm package onnxruntime-web, or its `dist`; by default `node_modules/onnxruntime-web`
            here or in a parent folder.

    Raises:
        FixedBatchError: a network whose code fixes a batch that should be free.
        ExportError: an export that ONNX rejects; a network with unknown preprocessing, or a detector; no runtime.
    """
    if artifact.preprocessing is None:
        raise ExportError(
            "a page must know how images become inputs: pass data=, a Preprocessing or the training's DataConfig"
        )
    if artifact.detections is not None:
        raise ExportError(
            "the page shows classes, labels and numbers, not boxes: export a detector to onnx, and run it with the "
            "JavaScript package or with adaptive-depth run"
        )
    dist = find_runtime(runtime)
    source = next(folder for folder in _SOURCES if (folder / "page").is_dir())
    path.mkdir(exist_ok=True)
    artifact = replace(artifact, kind="onnx")
    onnx.write(network, path / MODEL, example, artifact, form=form)
    write_sidecar(path / MODEL, artifact)
    shutil.copytree(source / "page", path, dirs_exist_ok=True)
    shutil.copytree(source / "src", path / "adaptive-depth", dirs_exist_ok=True)
    (path / RUNTIME).mkdir(exist_ok=True)
    for name in WASM:
        shutil.copyfile(dist / name, path / RUNTIME / name)


def open_written(path: Path) -> Session:
    """A session for the network of a page."""
    return open_session(path / MODEL)


def find_runtime(given: str | Path | None = None) -> Path:
    """The folder with the files of onnxruntime-web.

    Arguments:
        given: the folder of the package, or its `dist`; None looks for `node_modules` here and in parent folders.

    Raises:
        ExportError: no such folder, or one without these files.
    """
    install = f"npm install {RUNTIME}"
    for folder in _candidates(given):
        if all((folder / name).is_file() for name in WASM):
            return folder
    if given is None:
        raise ExportError(
            f"a page includes its runtime, but there is no node_modules/{RUNTIME} here or in a parent folder: {install}"
            ", or name the folder of the package with runtime= (--runtime)"
        )
    raise ExportError(f"runtime {given} has no {' and '.join(WASM)}: expected the folder that {install} created")


def _candidates(given: str | Path | None) -> Iterator[Path]:
    if given is not None:
        yield from (Path(given), Path(given) / "dist")
        return
    here = Path.cwd()
    for folder in (here, *here.parents):
        yield folder / "node_modules" / RUNTIME / "dist"

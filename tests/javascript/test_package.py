"""The JavaScript package: its own tests, with vectors and a file of the Python library; its types; what npm packs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.preprocessing import Preprocessing

VECTORS = Path(__file__).parents[1] / "vectors"
LABELS = ("ant", "bee", "cat", "dog")


def run(*command: object, cwd: Path, **environment: str) -> str:
    variables = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def exported(small_resnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 16 depths, and what each of them gives for an input."""
    folder, network = tmp_path_factory.mktemp("exported"), small_resnet(len(LABELS), 8, 16, 16, 16)
    x = torch.randn(1, 3, 32, 32)
    rows = tuple(ad.Row(skip, 80 - 5 * skip.count("T"), 100 - 9 * skip.count("T"), 9) for skip in network.skips)
    data = Preprocessing(32, 3, (0.5,) * 3, (0.25,) * 3, "bilinear", 0.9, LABELS)
    ad.export_network(network, folder / "model.onnx", x, data=data, trade_offs=ad.TradeOffs(rows))
    with torch.no_grad():
        outputs = {skip: network(x, skip=skip)[0] for skip in network.skips}
    expected: dict[str, Any] = {"x": x.flatten().tolist(), "best": int(outputs["FFFF"].argmax())}
    expected["outputs"] = {skip: output.tolist() for skip, output in outputs.items()}
    (folder / "expected.json").write_text(json.dumps(expected))
    return folder


def test_its_own_tests(javascript: Path, node: Path, exported: Path) -> None:
    said = run(node, "--test", "--test-reporter=tap", cwd=javascript, EXPORTED=str(exported))
    assert "# fail 0" in said
    assert "# skipped 0" in said


def test_its_types(javascript: Path, node: Path) -> None:
    run(node, "node_modules/typescript/bin/tsc", "--noEmit", cwd=javascript)


def test_a_user_of_typescript_finds_the_types(javascript: Path, node: Path, tmp_path: Path) -> None:
    """What npm packs, in a program that is right and in one that is not."""
    npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = f"{node.parent}{os.pathsep}{os.environ['PATH']}"
    run(node, npm, "pack", "--pack-destination", tmp_path, "--silent", cwd=javascript, PATH=path)
    (archive,) = tmp_path.glob("adaptive-depth-*.tgz")
    package = tmp_path / "node_modules" / "adaptive-depth"
    package.mkdir(parents=True)
    run("tar", "xzf", archive, "--strip-components=1", "-C", package, cwd=tmp_path)
    assert sorted(file.name for file in package.iterdir()) == ["README.md", "package.json", "src", "types"]
    (tmp_path / "package.json").write_text('{"type": "module"}')
    compiler = [node, javascript / "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--target", "es2022"]
    compiler += ["--module", "nodenext", "--lib", "es2022,dom", "program.ts"]
    program = """
        import { openSession, prepare, Governor, type Session } from "adaptive-depth";
        export async function main(ort: any, image: ImageData): Promise<string> {
          const session: Session = await openSession("model.onnx", { ort });
          const governor = new Governor(session.artifact.trade_offs!, { targetMs: %s });
          await session.run(prepare(image, session.artifact.preprocessing!), { skip: governor.choose() });
          return session.skips[0];
        }
    """
    (tmp_path / "program.ts").write_text(program % "30")
    run(*compiler, cwd=tmp_path)
    (tmp_path / "program.ts").write_text(program % '"30"')
    with pytest.raises(AssertionError, match="Type 'string' is not assignable to type 'number'"):
        run(*compiler, cwd=tmp_path)


def test_the_vectors_are_what_the_python_library_does_now(tmp_path: Path) -> None:
    copy = tmp_path / "write.py"
    copy.write_text((VECTORS / "write.py").read_text())
    run(sys.executable, copy, cwd=tmp_path)
    for name in ("governor.json", "preprocessing.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((VECTORS / name).read_text()), name

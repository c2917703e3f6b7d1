"""The notebooks run, offline and in a fresh kernel; what they show holds; what is committed names no machine."""

import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTE = runpy.run_path(str(ROOT / "notebooks" / "execute.py"))
PATHS = re.compile(r"(?<![\w.])/(?:root|work|tmp|home|Users|opt|usr|var)\b|\b[A-Z]:\\\\?Users")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a notebook with some constants changed, and returns what an expression gives at its end."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(name: str, constants: Mapping[str, str], expression: str) -> Any:
        notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        for there, instead in constants.items():
            holding = [cell for cell in notebook.cells if there in cell.source.splitlines()]
            assert len(holding) == 1, f"{name} has {len(holding)} cells with the line {there!r}"
            holding[0].source = holding[0].source.replace(there, instead)
        asked = f"import json\nprint('RESULT', json.dumps({expression}))"
        notebook.cells.append(nbformat.v4.new_code_cell(asked))
        ran = EXECUTE["run"](notebook, folder)  # raises where a cell does
        (line,) = re.findall(r"^RESULT (.*)$", ran.cells[-1].outputs[-1].text, re.MULTILINE)
        return json.loads(line)

    return run


@pytest.mark.slow
def test_photographs(run: Any) -> None:
    constants = {
        "EPOCHS = 4": "EPOCHS = 1",
        "TRAINING, VALIDATION = 3000, 1500  # photographs": "TRAINING, VALIDATION = 640, 250",
    }
    asked = (
        "{'rows': [(row.skip, row.accuracy, row.latency_ms, row.alone) for row in table.rows], 'limit': limit_ms,"
        " 'chosen': chosen, 'longer': longer, 'same': torch.equal(shallow(image[None]), net(image[None], skip=chosen))}"
    )
    found = run("photographs.ipynb", constants, asked)
    rows = {skip: (accuracy, ms, alone) for skip, accuracy, ms, alone in found["rows"]}
    assert len(rows) == 16
    within = {skip: accuracy for skip, (accuracy, ms, _) in rows.items() if ms <= found["limit"]}
    assert within[found["chosen"]] == max(within.values())
    assert {skip for skip, (*_, alone) in rows.items() if alone is not None} == {"FFFF", "TTTT"}
    assert 0 < found["longer"] <= 100
    assert found["same"]


@pytest.mark.slow
def test_language_model(run: Any) -> None:
    constants = {"BATCHES = 120  # of the training": "BATCHES = 30"}
    asked = (
        "{'same': same, 'accepted': accepted, 'before': dict(untrained), 'after': dict(perplexity),"
        " 'times': {row.skip: row.token_ms for row in table.rows}, 'limit': limit_ms, 'chosen': choice.skip,"
        " 'lengths': [row.shape[1] for row in plain], 'checks': checks, 'ahead': ahead}"
    )
    found = run("language_model.ipynb", constants, asked)
    assert found["same"] == [True] * 8
    assert found["lengths"] == [32 + 96] * 8
    assert 0 < found["accepted"] <= 1
    assert found["checks"] < 8 * 96 <= found["checks"] + found["ahead"]
    assert len(found["after"]) == 8
    assert all(found["after"][skip] < found["before"][skip] / 2 for skip in found["after"])
    assert found["times"][found["chosen"]] <= found["limit"]


@pytest.mark.slow
def test_deploy(run: Any) -> None:
    constants = {"EPOCHS = 6": "EPOCHS = 1", "PHASE_S = 4  # seconds of each phase, quiet or loaded": "PHASE_S = 1"}
    asked = (
        "{'differences': differences, 'target': target_ms, 'latencies': latencies, 'chosen': choice.skip,"
        " 'ran': sorted({skip for _, skip, _, _ in governed}), 'phases': [phase for *_, phase in governed],"
        " 'decisions': len(governor.log), 'passes': len(governed), 'free': sorted(free) == sorted("
        "os.sched_getaffinity(0) if free else free)}"
    )
    found = run("deploy.ipynb", constants, asked)
    assert len(found["differences"]) == 5
    assert max(found["differences"].values()) < 1e-4
    assert found["latencies"][found["chosen"]] <= found["target"]
    assert set(found["ran"]) <= found["differences"].keys()
    assert set(found["phases"]) == {"quiet", "load"}
    assert found["decisions"] == found["passes"] > 3
    assert found["free"]  # the notebook gives the processors back


def test_three_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["deploy.ipynb", "language_model.ipynb", "photographs.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_executed_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]  # from top to bottom, once
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert [text for text in texts if PATHS.search(text) or re.search(r" at 0x[0-9a-f]+", text)] == []
    assert [cell.metadata for cell in notebook.cells if cell.metadata] == []  # no times of execution
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_a_path_of_a_machine_is_seen() -> None:
    for said in ("wrote /tmp/a", "'/work/main/x.py'", "(/root)", "/home/me", r"C:\Users\me"):
        assert PATHS.search(said), said
    for said in ("runs/tmp", "a/work", "points/home", "32 x 32"):
        assert not PATHS.search(said), said

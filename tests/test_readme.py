"""The README's Python blocks run, in their order, in one namespace, as a reader would paste them."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from adaptive_depth import cli

README = Path(__file__).parent.parent / "README.md"


CHOOSING = README.parent / "docs" / "choosing.md"
DETECTION = README.parent / "docs" / "detection.md"
EXPORTING = README.parent / "docs" / "exporting.md"
GOVERNING = README.parent / "docs" / "governing.md"
SCHEDULES = README.parent / "docs" / "schedules.md"
SERVING = README.parent / "docs" / "serving.md"
LANGUAGE = README.parent / "docs" / "language.md"
DETECTION = README.parent / "docs" / "detection.md"
TASKS = README.parent / "docs" / "tasks.md"


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "least"),
    [
        (README, 4),
        (CHOOSING, 2),
        (DETECTION, 2),
        (EXPORTING, 3),
        (GOVERNING, 3),
        (SCHEDULES, 1),
        (SERVING, 1),
        (TASKS, 2),
    ],
)
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path, least: int) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    namespace: dict[str, Any] = {"__name__": "readme"}
    found = blocks("python", page)
    assert len(found) >= least
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), namespace)


def test_what_the_page_on_choosing_prints_is_what_its_block_prints(capsys: pytest.CaptureFixture[str]) -> None:
    exec(next(block for block in blocks("python", CHOOSING) if "choose(latency_ms=48)" in block), {})
    assert capsys.readouterr().out in blocks("text", CHOOSING)


def test_what_the_page_on_detection_prints_is_what_its_block_prints(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python", DETECTION)[0], {})
    assert capsys.readouterr().out in blocks("text", DETECTION)


@pytest.mark.slow
def test_the_page_on_language_models_runs_in_python_and_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test_python_blocks_run(tmp_path, monkeypatch, LANGUAGE, 8)
    assert "sub-networks within token_ms <= 1,000" in capsys.readouterr().out
    lines = [line for block in blocks("sh", LANGUAGE) for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)
        status = cli.main(words[1:])
        assert status == (2 if words[2] == "chat" else 0), line  # its tokenizer has no chat template
    assert "The quick brown fox" in capsys.readouterr().out


@pytest.mark.parametrize("page", [README, DETECTION, LANGUAGE, SERVING])
def test_commands_and_options_exist(page: Path) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh", page) for line in block.splitlines() if line.startswith("adaptive-depth")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        command = commands[words[1]]
        command = getattr(command, "commands", {}).get(words[2], command)  # of a group
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line


def test_the_table_of_figures_is_what_the_benchmarks_wrote() -> None:
    table = runpy.run_path(str(README.parent / "benchmarks" / "table.py"))["table"]()
    assert table.count("\n") >= 10
    assert table in README.read_text()


def test_the_table_of_tasks_on_real_data_is_what_the_benchmark_wrote() -> None:
    script = README.parent / "benchmarks" / "tasks.py"
    table = subprocess.run([sys.executable, script, "--table"], check=True, capture_output=True, text=True).stdout
    assert table.count("\n") >= 10
    assert table in TASKS.read_text()

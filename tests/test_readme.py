"""The Python blocks of README and docs/ run, in their order, in one namespace a page, as a reader would paste them."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import typer.main

from adaptive_depth import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
ADAPTING = DOCS / "adapting.md"
CHOOSING = DOCS / "choosing.md"
COMMAND_LINE = DOCS / "command-line.md"
DETECTION = DOCS / "detection.md"
EXPORTING = DOCS / "exporting.md"
GOVERNING = DOCS / "governing.md"
LANGUAGE = DOCS / "language.md"
MEASURED = DOCS / "measured.md"
SCHEDULES = DOCS / "schedules.md"
SERVING = DOCS / "serving.md"
TASKS = DOCS / "tasks.md"
TOUR = DOCS / "tour.md"
TUTORIALS = DOCS / "tutorials"


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "least"),
    [
        (README, 1),
        (TOUR, 11),
        (ADAPTING, 1),
        (CHOOSING, 2),
        (DETECTION, 2),
        (EXPORTING, 3),
        (GOVERNING, 3),
        (SCHEDULES, 1),
        (SERVING, 1),
        (TASKS, 2),
        (TUTORIALS / "detect.md", 1),
        (TUTORIALS / "segment.md", 2),
        (TUTORIALS / "device.md", 2),
        (TUTORIALS / "serve.md", 1),
    ],
)
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path, least: int) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks_of_python", "commands"), [("classify", 1, 8), ("language", 3, 7)])
def test_a_tutorial_runs_in_python_and_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    blocks_of_python: int,
    commands: int,
) -> None:
    page = TUTORIALS / f"{name}.md"
    test_python_blocks_run(tmp_path, monkeypatch, page, blocks_of_python)
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    assert len(lines) == commands
    for line in lines:
        assert cli.main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"


PAGES_OF_COMMANDS = [README, *sorted(page for page in DOCS.rglob("*.md") if blocks("sh", page))]


@pytest.mark.parametrize("page", PAGES_OF_COMMANDS, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh", page) for line in block.splitlines() if line.startswith("adaptive-depth")]
    assert lines or page in (MEASURED, DOCS / "scaling.md")  # theirs start with another program
    for line in lines:
        words = shlex.split(line, comments=True)
        command = commands[words[1]]
        command = getattr(command, "commands", {}).get(words[2], command)  # of a group
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line


def test_the_table_of_figures_is_what_the_benchmarks_wrote() -> None:
    table = runpy.run_path(str(ROOT / "benchmarks" / "table.py"))["table"]()
    assert table.count("\n") >= 10
    assert table in MEASURED.read_text()


def test_the_table_of_tasks_on_real_data_is_what_the_benchmark_wrote() -> None:
    script = ROOT / "benchmarks" / "tasks.py"
    table = subprocess.run([sys.executable, script, "--table"], check=True, capture_output=True, text=True).stdout
    assert table.count("\n") >= 10
    assert table in TASKS.read_text()


def test_readme_and_evidence_are_short() -> None:
    assert len(README.read_text().split()) <= 650
    assert len((DOCS / "evidence.md").read_text().split()) <= 1500


def test_the_picture_of_the_readme_shows_accuracies_of_the_page_on_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    picture = runpy.run_path(str(ROOT / "benchmarks" / "picture.py"))
    (row,) = (
        line
        for line in (DOCS / "evidence.md").read_text().splitlines()
        if line.startswith("| schedule of passes (default)")
    )
    found = picture["accuracies"]()
    adaptive = found["passes"]
    assert f"{mean(adaptive['FFFF']):.1f} ± {stdev(adaptive['FFFF']):.1f}, {mean(adaptive['TTTT']):.1f}" in row
    assert {len(each) for each in found.values()} == {16, 4, 2}
    assert picture["PICTURE"].exists()

"""The README's Python blocks run, in their order, in one namespace, as a reader would paste them."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from adaptive_depth import cli

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    found = blocks("python")
    assert len(found) >= 4
    for number, block in enumerate(found, 1):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)


def test_commands_and_options_exist() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("adaptive-depth")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        command = commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line


def test_the_table_of_figures_is_what_the_benchmarks_wrote() -> None:
    table = runpy.run_path(str(README.parent / "benchmarks" / "table.py"))["table"]()
    assert table.count("\n") >= 10
    assert table in README.read_text()

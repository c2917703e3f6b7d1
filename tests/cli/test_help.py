"""cli/: `--help` of every command fits one screen, or is grouped under headings that all commands share."""

import re
from itertools import pairwise

import pytest
import typer

from adaptive_depth.cli import app, main

LINES, COLUMNS, OPTIONS = 45, 100, 12
UNNAMED = ("Arguments", "Options")
KNOWN = {
    "Data", "Model", "Training", "Algorithm 1", "Task", "Measuring", "Queue", "Language models", "Requests", "Writing",
    "Quantisation", "Device", "Output",
}  # fmt: skip


def paths(command, path=()):
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from paths(each, (*path, name))


ALL = list(paths(typer.main.get_command(app)))  # type: ignore[attr-defined]


@pytest.fixture
def shown(monkeypatch, capsys):
    """The help of a command: its text, and the lines of each group."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))

    def of(path):
        assert main([*path, "--help"]) == 0
        text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # in colours where CI sets FORCE_COLOR
        groups, name = {}, ""
        for line in text.splitlines():
            if heading := re.match(r"╭─ (.+?) ─+╮$", line):
                name = heading[1]
                groups[name] = []
            elif line.startswith("│"):
                groups[name].append(line)
        return text, groups

    return of


def test_all_commands_are_found():
    assert len(ALL) >= 19
    assert {(), ("train",), ("text", "chat")} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_screen_or_is_grouped(shown, path):
    text, groups = shown(path)
    named = [name for name in groups if name not in UNNAMED]
    assert len(text.splitlines()) <= LINES or len(named) >= 2
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "…" not in text  # nothing is cut off
    for name, lines in groups.items():
        assert sum(bool(re.match(r"│ +(\* +)?--", line)) for line in lines) <= OPTIONS, name


@pytest.mark.parametrize("path", [path for path in ALL if path not in ((), ("text",))], ids=" ".join)
def test_groups_have_the_same_names_everywhere(shown, path):
    _, groups = shown(path)
    assert "--help" in "".join(groups["Options"])  # the one that is shown first
    assert {*groups} - {*UNNAMED} <= KNOWN


def test_the_commands_are_grouped(shown):
    _, groups = shown(())
    assert [*groups] == ["Options", "Train and measure", "Deploy", "Share and more"]
    for name in [*groups][1:]:
        assert all(re.match(r"│ [a-z-]+  +[A-Z].+\. +│$", line) for line in groups[name]), name  # one line each


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_paragraphs_are_not_broken_in_the_middle(shown, path):
    prose = shown(path)[0].partition("╭")[0].strip().splitlines()[1:]  # behind the usage
    for line, following in pairwise(prose):
        first = following.split()[0] if following.split() else ""
        assert not (line.strip() and first) or len(line.rstrip()) + 1 + len(first) > COLUMNS - 1, line

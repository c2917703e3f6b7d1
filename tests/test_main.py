"""__main__.py: the program, before any command runs."""

import builtins
import sys

import pytest

from adaptive_depth.__main__ import main


@pytest.mark.parametrize("what", ["cli", "torch"])
def test_ctrl_c_during_imports_is_one_line(what, monkeypatch, capsys, tmp_path):
    original = builtins.__import__

    def interrupted(name, *rest):
        if name == what:
            raise KeyboardInterrupt
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    monkeypatch.setattr(sys, "argv", ["adaptive-depth", "profile", "resnet18"])
    assert main() == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_exit_status_is_that_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["adaptive-depth", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("adaptive-depth ")
    monkeypatch.setattr(sys, "argv", ["adaptive-depth", "select", "there/is/none"])
    assert main() == 2

"""Files written whole, and one writer of a folder at a time: with real processes, which are killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptive_depth import errors, files
from adaptive_depth.errors import CheckpointError
from adaptive_depth.files import draft, drafts, move, write_atomically, writing

START = "import sys, time\nfrom pathlib import Path\nfrom adaptive_depth.errors import CheckpointError\n"
START += "from adaptive_depth.files import draft, drafts, write_atomically, writing\nfolder = Path(sys.argv[1])\n"


@contextmanager
def other(code: str, folder: Path) -> Iterator[subprocess.Popen]:
    """A process that has said `ready` and sleeps; killed afterwards, if it lives."""
    program = START + textwrap.dedent(code)
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


HOLDS = "with writing(folder, 'train', CheckpointError):\n    print('ready', flush=True); time.sleep(60)"
DRAFTS = """
    with drafts(folder) as place:
        draft(place / "weights", b"large")
        print("ready", flush=True); time.sleep(60)
"""


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_another_process_is_named(tmp_path):
    with other(HOLDS, tmp_path) as process:
        said = f"{re.escape(str(tmp_path))} is being written by process {process.pid} on {socket.gethostname()} "
        said += r"\(train, since 2\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d\): wait until it is done, or choose another place"
        with pytest.raises(CheckpointError, match=said), writing(tmp_path, "save", CheckpointError, patience=0.1):
            pass
        with pytest.raises(errors.ExportError), writing(tmp_path, "export", errors.ExportError, patience=0):
            pass
        with writing(tmp_path / "inside", "save", CheckpointError, patience=0):
            pass
    assert not (tmp_path / "inside").exists()


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
    with other(HOLDS, tmp_path) as process:
        kill(process)
        assert [*tmp_path.iterdir()] != []
        with writing(tmp_path, "save", CheckpointError, patience=0):
            assert json.loads(next(tmp_path.iterdir()).read_text())["pid"] == os.getpid()
    assert [*tmp_path.iterdir()] == []


def test_a_short_write_waits_for_another(tmp_path):
    code = "with writing(folder, 'save', CheckpointError):\n    print('ready', flush=True); time.sleep(0.5)"
    with other(code, tmp_path), writing(tmp_path, "save", CheckpointError):
        pass


def test_drafts_of_a_killed_process_go_and_those_of_a_live_one_stay(tmp_path):
    mine = [tmp_path / name for name in (".notes", ".adaptive-depth-mine", "x.unfinished")]
    for file in mine:
        file.write_text("mine")
    with other(DRAFTS, tmp_path) as live, other(DRAFTS, tmp_path) as dead:
        there = set(tmp_path.iterdir()) - set(mine)
        assert len(there) == 2
        kill(dead)
        with drafts(tmp_path) as own, writing(tmp_path, "save", CheckpointError):
            left = set(tmp_path.glob(".adaptive-depth-*.unfinished"))
            assert len(left) == 2
            assert own in left
            assert all((place / "weights").read_bytes() == b"large" for place in left - {own})
        assert live.poll() is None
        kill(live)
        with writing(tmp_path, "save", CheckpointError):
            pass
    assert set(tmp_path.iterdir()) == set(mine)


@pytest.mark.parametrize("content", [None, "weights"])
def test_a_process_killed_before_it_could_lock_its_drafts(tmp_path, content):
    place = tmp_path / ".adaptive-depth-x.unfinished"
    place.mkdir()
    if content:
        (place / content).write_text("?")
    with writing(tmp_path, "save", CheckpointError):
        pass
    assert place.exists() is bool(content)  # who wrote that is not known


def test_two_writers_at_once_both_end_whole(tmp_path):
    code = """
        for number in range(150):
            with writing(folder, "save", CheckpointError):
                old = (folder / "count").read_text() if (folder / "count").exists() else "0"
                write_atomically(folder / "count", str(int(old) + 1).encode())
    """
    program = [sys.executable, "-c", START + textwrap.dedent(code), str(tmp_path)]
    processes = [subprocess.Popen(program) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "count").read_text() == "300"
    assert [file.name for file in tmp_path.iterdir()] == ["count"]


def test_threads_take_turns_and_steps_of_a_longer_work_do_not_wait(tmp_path):
    inside, seen = [0], []

    def work() -> None:
        with writing(tmp_path, "save", CheckpointError), writing(tmp_path, "save", CheckpointError, patience=0):
            inside[0] += 1
            seen.append(inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1, 1]


def test_a_child_process_does_not_keep_the_lock(tmp_path):
    """As processes that load images: they outlive their parent for a moment."""
    code = """
        import os
        with writing(folder, "train", CheckpointError):
            child = os.fork()
            if child == 0:
                time.sleep(60)
            (folder / "child").write_text(str(child))
            print("ready", flush=True); time.sleep(60)
    """
    with other(code, tmp_path) as process:
        child = int((tmp_path / "child").read_text())
        try:
            kill(process)
            with writing(tmp_path, "train", CheckpointError, patience=2):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_folder_that_got_nothing_is_left_as_it_was_found(tmp_path):
    with pytest.raises(RuntimeError, match="x"), writing(tmp_path / "a" / "b", "save", CheckpointError):
        raise RuntimeError("x")
    assert not (tmp_path / "a").exists()
    with writing(tmp_path / "a" / "b", "save", CheckpointError):
        write_atomically(tmp_path / "a" / "b" / "file", b"1")
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["file"]
    (tmp_path / "a" / "b" / "file").unlink()
    with writing(tmp_path / "a" / "b", "save", CheckpointError):
        pass
    assert (tmp_path / "a" / "b").is_dir()


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for place, name in ((files.os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, full)
            with pytest.raises(OSError, match="No space"):
                write_atomically(tmp_path / "a", b"new")
    with drafts(tmp_path) as place:
        move(draft(place / "x", b"new"), tmp_path / "b")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old", "b": b"new"}

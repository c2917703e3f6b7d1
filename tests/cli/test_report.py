"""adaptive-depth report: one page from what a run holds, and one line for every mistake."""

import json
import re
import subprocess
import sys

import pytest

from adaptive_depth.analysis.values import Analysis, BlockAnalysis, StageAnalysis
from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.training.history import Epoch, History

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python
STAGES = [
    {"name": "one", "mandatory": ["one.0"], "skippable": ["one.1"]},
    {"name": "two", "mandatory": ["two.0"], "skippable": ["two.1"]},
]
ACCURACY = {"FF": 76.0, "FT": 75.5, "TF": 75.0, "TT": 74.0}


def a_profile(processor="A processor"):
    costs = {skip: Cost(skip, 400 - 100 * place, 9 - place) for place, skip in enumerate(ACCURACY)}
    return Profile(costs, 1, {"processor": processor}, {}).to_json()


def an_analysis():
    blocks = tuple(BlockAnalysis(path, 1, path == "one.1", 0.25) for path in ("one.0", "one.1"))
    stages = (StageAnalysis(1, "one", -0.5, -0.25, 0.125, 0.0625, 0.03),)
    return Analysis(blocks, stages, (), {"FF": 0.5, "TT": 0.75}, 100, advice=("Use it & be <glad>.",)).to_json()


@pytest.fixture
def folder(tmp_path):
    """What a report needs of a run, and no more."""
    run = tmp_path / "small"
    run.mkdir()
    write(run, "network.json", {"stages": STAGES})
    write(run, "accuracy.json", {"run": "/home/somebody/small", "accuracy": ACCURACY, "images": 500})
    write(run, "profile.json", a_profile())
    return run


def write(run, name, value):
    (run / name).write_text(json.dumps(value))


def sections(page):
    return re.findall(r'<section id="(\w+)"', page)


# -- what it writes ---------------------------------------------------------------------------------------------


def test_a_run_of_the_other_commands_becomes_a_page(call, run):
    status, out, err = call("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (status, err) == (0, "")
    assert (
        out.strip() == f"Written to {run / 'report.html'} ({len(page.encode()) / 1e3:,.0f} kB): open it in a browser."
    )
    assert sections(page) == ["choose", "table", "training", "measured"]
    assert page.count("<tr data-skip=") == 16
    assert "<h1>run</h1>" in page
    assert re.findall(r'<p class="stage-name">.*?</span> (\w+) <', page) == ["layer1", "layer2", "layer3", "layer4"]
    assert str(run) not in page


def test_programs_are_told_json(call, folder):
    status, out, err = call("report", folder, "--json")
    size = (folder / "report.html").stat().st_size
    assert (status, err) == (0, "")
    assert json.loads(out) == {"run": str(folder), "report": str(folder / "report.html"), "bytes": size}


def test_help_has_an_example(call):
    status, out, _ = call("report", "--help")
    assert status == 0
    assert "Example: adaptive-depth report runs/demo" in " ".join(out.split())


def test_title_and_place_may_be_given(call, folder, tmp_path):
    place = tmp_path / "new" / "folder" / "page.html"
    before = sorted(folder.iterdir())
    assert call("report", folder, "--output", place, "--title", "My <network>")[0] == 0
    page = place.read_text(encoding="utf-8")
    assert "<h1>My &lt;network&gt;</h1>" in page
    assert "/home/somebody" not in page
    assert [*place.parent.iterdir()] == [place]
    assert sorted(folder.iterdir()) == before


def test_what_else_the_run_holds_is_shown(call, folder):
    epoch = Epoch(1, 0.1, 1.5, 60.0, 0.25, 59.0, 900.0, 0.1, {"FF": 61.0})
    (folder / "history.csv").write_text(History((epoch,)).to_csv())
    write(folder, "analysis.json", an_analysis())
    (folder / "maps.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write(folder, "data.json", {"name": "digits", "root": "/home/somebody/data", "classes": ["0", "1"]})
    (folder / "recipe.yaml").write_text("epochs: 7\nmilestones: []\n")
    write(folder, "alone.json", {"FF": 77.25})
    assert call("report", folder)[0] == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert sections(page) == ["choose", "table", "training", "analysis", "measured"]
    assert "<li>Use it &amp; be &lt;glad&gt;.</li>" in page
    assert re.findall(r"<td>([^<]+)</td>", page.partition("Figures for every stage")[2])[:5] == [
        "−0.5", "−0.25", "0.125", "0.0625", "0.03",
    ]  # fmt: skip
    assert 'alt="Class-activation maps: what super-net and base-net look at"' in page
    told = dict(re.findall(r"<dt>([^<]+)</dt>\s*<dd>([^<]+)</dd>", page.partition('id="measured"')[2]))
    assert told == {
        "processor": "A processor", "batch size": "1", "backend": "eager", "energy": "not measured",
        "images": "500", "name": "digits", "classes": "2", "epochs": "7",
    }  # fmt: skip
    assert '<td data-value="77.25">77.25</td>' in page
    assert "/home/somebody" not in page


def test_a_run_that_is_judged_by_an_error_becomes_a_page_of_it(call, folder):
    errors = {skip: round(1 - value / 100, 3) for skip, value in ACCURACY.items()}
    told = {"name": "RMSE", "unit": "m", "higher_is_better": False}
    write(folder, "accuracy.json", {"accuracy": errors, "images": 500, "quality": told})
    assert call("report", folder)[0] == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<span class="plain">RMSE (m, lower is better)</span>' in page
    assert "<h3>RMSE</h3>" in page
    assert "<dd><strong>FF</strong>" in page  # the best: 0.24 m
    assert "accura" not in page.partition("<body>")[2].partition("<script")[0].lower()


def test_a_profile_of_another_device_may_be_given(call, folder, tmp_path):
    other = tmp_path / "jetson.json"
    write(tmp_path, "jetson.json", a_profile("Another processor"))
    assert call("report", folder, "--profile", other)[0] == 0
    assert "<dd>Another processor</dd>" in (folder / "report.html").read_text(encoding="utf-8")


def test_no_torch_is_waited_for(folder):
    (folder / "history.csv").write_text(History((Epoch(1, 0.1, 1.5, 60.0, None, None, 900.0),)).to_csv())
    write(folder, "analysis.json", an_analysis())
    code = (
        "import sys; from adaptive_depth.cli import main\n"
        "status = main(['report', sys.argv[1]])\n"
        "slow = {'torch', 'timm', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "report.html").exists()


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("accuracy.json", None, r"accuracy\.json does not exist: measure it with adaptive-depth evaluate .*small"),
        (
            "accuracy.json",
            "[]",
            r"accuracy\.json contains no valid accuracies .*: measure them with adaptive-depth evaluate",
        ),
        ("profile.json", None, r"profile\.json does not exist: measure it with adaptive-depth profile .*small"),
        ("profile.json", '{"costs": 3}', r"profile\.json is damaged .*: measure it again with adaptive-depth profile"),
        ("network.json", '{"stages": 4}', r"network\.json contains no valid stages .*: save the network again"),
        (
            "network.json",
            '{"stages": [{"mandatory": [1]}]}',
            r"network\.json contains no valid stages .*: save the network again",
        ),
        ("network.json", '{"stages": [', r"network\.json cannot be read .*: save the network again"),
        ("network.json", json.dumps({"stages": STAGES[:1]}), "'FF' has 2 letters, but 1 stages were given"),
        ("history.csv", "epoch,lr\n1,x\n", r"history\.csv is damaged .*: remove it to report without it"),
        ("history.csv", "\udcff", r"history\.csv is damaged .*: remove it to report without it"),
        (
            "analysis.json",
            "{}",
            r"analysis\.json is damaged .*: create it again with adaptive-depth analyze .*small, or",
        ),
        ("analysis.json", "{", r"analysis\.json cannot be read .*: create it again with adaptive-depth analyze"),
        ("maps.png", "GIF", r"maps\.png is not a PNG image: create it again with adaptive-depth analyze"),
        ("data.json", "[]", r"data\.json does not contain names with values"),
        ("recipe.yaml", "a: [", r"recipe\.yaml cannot be read .*: remove it to report without it"),
        ("recipe.yaml", "only text", r"recipe\.yaml does not contain names with values: remove it"),
    ],
)
def test_a_missing_or_damaged_file_is_named(call, folder, name, content, message):
    (folder / "report.html").write_text("the old page")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    status, out, err = call("report", folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err), err
    assert (folder / "report.html").read_text() == "the old page"


def test_a_folder_without_a_network_is_refused(call, tmp_path):
    status, _, err = call("report", tmp_path)
    assert status == 2
    assert f"{tmp_path} is not a saved network: it contains no network.json" in err


def test_a_place_that_cannot_be_written_is_refused(call, folder):
    before = sorted(folder.iterdir())
    status, _, err = call("report", folder, "--output", folder)
    assert status == 2
    assert f"--output {folder} cannot be written" in err
    assert "name another file" in err
    assert sorted(folder.iterdir()) == before
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []

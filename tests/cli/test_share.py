"""adaptive-depth share: a run in the Hub's form, and nothing leaves the machine unasked."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import adaptive_depth as ad
from adaptive_depth.cli.opening import _of_run
from adaptive_depth.deploy.artifact import Artifact

from .conftest import judge_by_an_error

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python


@pytest.fixture
def forbidden(monkeypatch):
    """Any use of the Hub's client is a mistake."""

    def refuse(*_, **__):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_help_has_an_example(call):
    status, out, err = call("share", "--help")
    assert (status, err) == (0, "")
    assert "Example: adaptive-depth share runs/demo shared/letters --license apache-2.0" in " ".join(out.split())


def test_a_run_becomes_a_folder(call, run, tmp_path, forbidden):
    assert call("select", run)[0] == 0
    folder = tmp_path / "shared" / "stripes"
    status, out, err = call("share", run, folder, "--license=mit", "--base-model=timm/resnet18.a1_in1k")
    assert (status, err) == (0, "")
    assert f"Written to {folder}" in out
    assert f"adaptive-depth share {run} USER/NAME --push" in out
    assert f"hf upload USER/NAME {folder}" in out
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    network, again = ad.load(run), ad.AdaptiveNetwork.from_pretrained(folder)
    x = torch.linspace(-1, 1, 24 * 24).reshape(1, 1, 24, 24)
    with torch.no_grad():
        assert all(torch.equal(network(x, skip=skip), again(x, skip=skip)) for skip in network.skips)
    assert again.calibrated
    data = json.loads((run / "data.json").read_text())
    assert again.preprocessing.to_json() == {key: data[key] for key in again.preprocessing.to_json()}
    assert again.preprocessing.classes == ("left", "middle", "right")
    assert str(Path(data["name"]).parent) not in (folder / "config.json").read_text()
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.base_model) == ("mit", "timm/resnet18.a1_in1k")
    rows = json.loads((run / "tradeoffs.json").read_text())["rows"]
    assert all(f"| {row['skip']} | {row['accuracy']:.2f} % |" in card.text for row in rows)
    assert "Classes: left, middle, right." in card.text


def test_the_card_of_a_run_that_is_judged_by_an_error(call, run, tmp_path, forbidden):
    judge_by_an_error(run)
    assert call("select", run)[0] == 0
    assert call("share", run, tmp_path / "a")[0] == 0
    card = ModelCard.load(tmp_path / "a" / "README.md")
    assert card.data.metrics == ["rmse"]
    assert "| skip | RMSE (lower is better) |" in card.text
    assert "| FFFF | 0.250 m |" in card.text
    assert "accuracy" not in card.text


def test_a_run_of_which_little_is_known(call, run, tmp_path, forbidden):
    (run / "data.json").unlink()
    status, out, _ = call("share", run, tmp_path / "a")
    assert status == 0
    both = f"adaptive-depth profile {run}, then adaptive-depth select {run}"
    assert f"The card has no table of trade-offs: measure them with {both}" in out
    assert ad.AdaptiveNetwork.from_pretrained(tmp_path / "a").preprocessing is None
    status, out, _ = call("share", run, tmp_path / "a", "--json")
    assert json.loads(out) == {"run": str(run), "target": str(tmp_path / "a"), "url": None, "tradeoffs": False}


def test_pushing(call, run, monkeypatch, tmp_path):
    asked = {}

    def push(self, repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return "https://huggingface.co/me/stripes/commit/abc"

    monkeypatch.setattr(ad.AdaptiveNetwork, "push_to_hub", push)
    monkeypatch.chdir(tmp_path)
    status, out, err = call("share", run, "me/stripes", "--push", "--private", "--license=mit")
    assert (status, err) == (0, "")
    assert "Pushed to me/stripes: https://huggingface.co/me/stripes/commit/abc" in out
    assert (asked["repo_id"], asked["private"], asked["tradeoffs"]) == ("me/stripes", True, None)
    assert asked["model_card_kwargs"] == {"license": "mit"}
    assert asked["preprocessing"].classes == ("left", "middle", "right")
    status, out, _ = call("share", run, "me/stripes", "--push", "--json")
    assert json.loads(out)["url"] == "https://huggingface.co/me/stripes/commit/abc"
    assert asked["private"] is None  # as the Hub decides
    assert not (tmp_path / "me").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{run}", "Missing argument 'DIR|USER/NAME'"),
        ("{tmp}/none {tmp}/new", "is not a saved network"),
        ("{run} {run}", "already contains a network written by save (network.json): name another folder"),
        ("{run} {tmp}/file", "cannot be written"),
        ("{run} {tmp}/new --private", "--private: only a repository can be private; add --push, or omit --private"),
        ("{run} {tmp} --push", "is a folder here; name the repository, USER/NAME"),
        ("{run} a/b/c --push", "the network cannot be pushed to 'a/b/c'"),
        ("{run} me/stripes --push", "the network cannot be pushed to 'me/stripes' (OfflineModeIsEnabled"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(call, tmp_path, run, monkeypatch, arguments, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("mine")
    before = sorted(run.iterdir())
    status, out, err = call("share", *(word.format(tmp=tmp_path, run=run) for word in arguments.split()))
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(run.iterdir()) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"rows": []}'])
def test_damaged_measurements_are_told(call, run, tmp_path, content):
    (run / "tradeoffs.json").write_text(content)
    status, out, err = call("share", run, tmp_path / "new")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "tradeoffs.json" in err
    assert f"create it again with adaptive-depth select {run}" in err


def test_images_that_do_not_fit_are_told(call, run, tmp_path):
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(data | {"classes": ["left", "right"]}))
    status, out, err = call("share", run, tmp_path / "new")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "the network has 3 outputs" in err
    assert not (tmp_path / "new").exists()


def test_what_an_earlier_call_was_told_stays_in_the_card(call, run, tmp_path, forbidden):
    folder = tmp_path / "shared"
    for options, expected in ((["--license=mit"], "mit"), ([], "mit"), (["--license=apache-2.0"], "apache-2.0")):
        assert call("share", run, folder, *options)[0] == 0
        assert ModelCard.load(folder / "README.md").data.license == expected


def test_classes_of_images_are_no_names_of_outputs_that_are_none(call, run, tmp_path, forbidden):
    (run / "task.json").write_text(json.dumps({"task": "regression", "classes": False}))
    (run / "tradeoffs.json").unlink(missing_ok=True)
    assert call("share", run, tmp_path / "a")[0] == 0
    prepared = ad.AdaptiveNetwork.from_pretrained(tmp_path / "a").preprocessing
    assert (prepared.image_size, prepared.classes) == (24, ())
    artifact = _of_run(Artifact("network", (), ("FFFF",), (None, 1, 24, 24)), run, ad.load(run), judged=False)
    assert (artifact.preprocessing.image_size, artifact.labels) == (24, ())
    (run / "task.json").unlink()
    artifact = _of_run(Artifact("network", (), ("FFFF",), (None, 1, 24, 24)), run, ad.load(run), judged=False)
    assert artifact.labels == ("left", "middle", "right")

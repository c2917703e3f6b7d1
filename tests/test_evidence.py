"""benchmarks/paper: its page shows what its results say, and its rivals are what they are called."""

import dataclasses
import importlib
import json
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import adaptive_depth as ad

PAPER = Path(__file__).parents[1] / "benchmarks" / "paper"


def plain(width: float) -> nn.Module:
    channels = round(8 * width)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    )


def test_the_page_shows_what_the_results_say() -> None:
    for page, least in ((PAPER / "README.md", 15), (PAPER.parents[1] / "docs" / "evidence.md", 1)):
        assert page.read_text().count("<!-- begin ") >= least  # tables that the check compares
    subprocess.run([sys.executable, PAPER / "page.py", "--check"], check=True)


@pytest.mark.parametrize("number", range(3))
def test_a_narrower_network_has_the_first_channels_of_the_widest(number: int) -> None:
    torch.manual_seed(0)
    slim = runpy.run_path(str(PAPER / "rivals.py"))["Slimmable"](plain)
    x, width = torch.randn(4, 3, 6, 6), slim.widths[number]
    by_hand, weights, channels = plain(width), slim.nets[0].state_dict(), round(8 * width)
    by_hand[0].weight.data, by_hand[0].bias.data = weights["0.weight"][:channels], weights["0.bias"][:channels]
    by_hand[5].weight.data, by_hand[5].bias.data = weights["5.weight"][:, :channels], weights["5.bias"]
    torch.testing.assert_close(slim(x, number), by_hand(x))


def test_only_the_widest_has_weights_that_learn_and_each_width_has_its_norms() -> None:
    slim = runpy.run_path(str(PAPER / "rivals.py"))["Slimmable"](plain)
    learning = {name for name, parameter in slim.named_parameters() if parameter.requires_grad}
    norms = {f"nets.{number}.1.{kind}" for number in range(3) for kind in ("weight", "bias")}
    assert learning == norms | {f"nets.0.{layer}.{kind}" for layer in (0, 5) for kind in ("weight", "bias")}


def test_every_second_step_teaches_the_base_net() -> None:
    network = ad.adapt(ad.create_model("resnet18", num_classes=3, channels=(4, 4, 4, 4)))
    step = runpy.run_path(str(PAPER / "rivals.py"))["every_second_step"](network)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    taught = [step(x, y, torch.Tensor.backward).base_loss is not None for _ in range(4)]
    assert taught == [True, False, True, False]


def test_the_sandwich_differentiates_the_mean_of_four_passes() -> None:
    network = ad.adapt(ad.create_model("resnet18", num_classes=3, channels=(4, 4, 4, 4)), skip_aware=False)
    step = runpy.run_path(str(PAPER / "rivals.py"))["sandwich_step"](network)
    x, y, losses = torch.randn(2, 3, 32, 32), torch.tensor([0, 2]), []
    result = step(x, y, losses.append)
    assert len(losses) == 4
    assert losses[0].item() == pytest.approx(result.loss.item() / 4)
    assert result.loss.item() == pytest.approx(nn.functional.cross_entropy(result.output, y).item())


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.syspath_prepend(PAPER)
    return runpy.run_path(str(PAPER / "verdicts.py"))


@pytest.mark.parametrize(
    ("ours", "theirs", "at_least", "above"),
    [
        ([62.0, 62.2, 62.4], [61.0, 61.2, 61.4], "**holds**", "**holds**"),  # 1 point, 5 standard deviations of 0.2
        ([62.0, 62.2, 62.4], [61.9, 62.0, 62.1], "**holds**", "undecided"),
        ([61.9, 62.0, 62.1], [62.0, 62.2, 62.4], "undecided", "undecided"),
        ([61.0, 61.2, 61.4], [62.0, 62.2, 62.4], "**does not hold**", "**does not hold**"),
    ],
)
def test_a_verdict_asks_for_two_standard_deviations(rule, ours, theirs, at_least, above) -> None:
    assert rule["at_least"](ours, theirs).startswith(at_least)
    assert rule["above"](ours, theirs).startswith(above)


def test_depths_between_are_compared_with_the_line_that_joins_the_ends(rule) -> None:
    accuracy = {"FF": [70.0, 72.0], "TF": [70.0, 70.0], "TT": [69.0, 69.0]}  # means 71, 70, 69
    found = importlib.import_module("plans").against_the_line(accuracy, {"FF": 400, "TF": 250, "TT": 200})
    assert found == pytest.approx({"TF": 0.5})  # the line is at 69.5 there


def test_one_depth_of_each_cost_is_enough_to_reach_the_line(rule) -> None:
    family = {
        "title": "A ResNet, of two stages",
        "macs": {"FF": 400, "TF": 250, "FT": 250, "TT": 200},
        "adaptive": {"FF": [71.0, 71.0], "TF": [70.0, 70.0], "FT": [67.5, 67.5], "TT": [69.0, 69.0]},
        "points above the line, by sub-network": {"TF": 0.5, "FT": -2.0},
    }
    family["alone"] = {"FF": [70.0, 70.0], "TF": [71.0, 71.0], "TT": [70.0, 70.0]}
    rows = list(rule["_main_result"]({"families": {"resnet": family}}))
    *ends, (claim, _, found, verdict) = rows[:3]
    assert (claim.split(",")[0], found, verdict) == (
        "A ResNet: TF",
        "70.0 ± 0.0 against 71.0 ± 0.0",
        "**does not hold**",
    )
    rows = [*ends, *rows[3:]]
    assert [verdict for *_, verdict in rows] == ["**holds**", *["**does not hold**"] * 2, "**holds**"]
    assert [found for *_, found, _ in rows][2:] == ["lowest FT, -2.0 points", "lowest TF, +0.5 points"]


@pytest.mark.parametrize("setting", ["quick", "night", "gpu"])
def test_every_run_has_a_file_of_its_own(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PAPER)
    everything, run = importlib.import_module("everything"), importlib.import_module("run")
    place = run.Place(importlib.import_module("setting").SETTINGS[setting], Path())
    runs = {each for module in everything.EXPERIMENTS for each in module.plan(place)}
    assert len({each.name for each in runs}) == len(runs) > 100


@pytest.mark.parametrize(
    ("budget", "epochs", "images"), [(0.01, 1, 1000), (0.08, 2, 4000), (1, 20, 5000), (4, 80, 5000)]
)
def test_a_budget_is_kept_to_the_image(budget, epochs, images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PAPER)
    run, night = importlib.import_module("run"), importlib.import_module("setting").SETTINGS["night"]
    part = importlib.import_module("images").Part(torch.zeros(45_000, 3, 1, 1), torch.zeros(45_000))
    monkeypatch.setattr(run.Place, "part", lambda *_: part)
    asked = run.Run("resnet", budget=budget)
    assert run.recipe(asked, night).epochs == epochs
    assert run.Place(night, Path()).batches(asked, budget).count == images  # 100,000 images in all at budget 1


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([61.0, 61.2, 61.4], [62.0, 62.2, 62.4], "**holds**"),
        ([61.9, 62.0, 62.1], [61.8, 61.9, 62.0], "undecided"),  # 0.1 points more, standard deviations of 0.1
        ([62.0, 62.2, 62.4], [61.0, 61.2, 61.4], "**does not hold**"),
    ],
)
def test_no_more_is_told_from_the_scatter(rule, ours, theirs, verdict) -> None:
    assert rule["no_more"](ours, theirs).startswith(verdict)


def test_a_strategy_is_compared_with_the_usual_one_of_its_budget(rule) -> None:
    def row(case: str, value: float) -> dict:
        return {"case": case, **{key: [value, value] for key in ("super-net", "base-net", "mean of all")}}

    cases = [row("usual", 60.0), row("random", 61.0), row("usual, budget 400%", 75.0), row("random, budget 400%", 74.0)]
    rows = list(rule["_strategies"]({"cases": cases}))
    assert [claim for claim, *_ in rows[::3]] == ["random: worse (super-net)", "random, budget 400%: worse (super-net)"]
    assert [verdict for *_, verdict in rows] == ["**does not hold**"] * 3 + ["**holds**"] * 3


def test_a_rival_is_compared_with_the_method_itself(rule) -> None:
    times = {
        name: {"median": median, "low": 0.0, "high": 9.0}
        for name, median in (("adaptive", 1.1), ("slimmable", 2.2), ("sandwich", 1.65))
    }
    rows = list(rule["_cost"]({"time of an epoch, against super-net and base-net alone": {"resnet": times}}))
    assert [row[2:] for row in rows[1:]] == [("2.0 times", "**holds**"), ("1.5 times", "**does not hold**")]


def test_one_set_of_statistics_is_the_mean_of_two(rule) -> None:
    network = ad.adapt(ad.create_model("resnet18", num_classes=3, channels=(4, 4, 4, 4)), skip_aware=False)
    own, skipping = (network.subnet(skip).layer2[0].bn1 for skip in ("FFFF", "TTTT"))
    own.running_mean.fill_(1.0), skipping.running_mean.fill_(4.0)
    own.running_var.fill_(2.0), skipping.running_var.fill_(8.0)
    importlib.import_module("ablation").one_set_of_statistics(network)
    assert own.running_mean.tolist() == skipping.running_mean.tolist() == [2.5] * 4
    assert own.running_var.tolist() == skipping.running_var.tolist() == [5.0] * 4


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A place in a folder of its own, where `done` says which runs a process was asked for."""
    monkeypatch.syspath_prepend(PAPER)
    monkeypatch.chdir(tmp_path)
    run, setting = importlib.import_module("run"), importlib.import_module("setting").SETTINGS["quick"]
    return run.Place(setting, tmp_path, tmp_path / "results")


# -- what a user may get wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing.npz", "--data nothing.npz does not exist: name the folder"),
        ("other.npz", "--data other.npz has no train_jpeg, train_end, train_labels, test_jpeg, test_end, test_labels"),
        ("text.npz", "--data text.npz is not an .npz (ValueError): expected train_jpeg"),
        ("single.npz", "--data single.npz has no train_jpeg"),
        ("file", "CIFAR-10 is not in --data file and could not be downloaded"),
    ],
)
def test_data_that_is_none_is_told(tmp_path: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PAPER)
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", x=np.zeros(3))
    Path("text.npz").write_text("images")
    with Path("single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    Path("file").write_text("")  # neither a folder nor one that can be made
    with pytest.raises(SystemExit, match=re.escape(told)):
        importlib.import_module("images").load(Path(name), 16, "cpu")


def test_a_table_without_results_says_how_to_make_them(place) -> None:
    with pytest.raises(SystemExit, match=r"ratio\.json does not exist: run ratio\.py without --table first"):
        importlib.import_module("command").read("ratio", place)


def test_results_of_other_images_are_not_added_to(place) -> None:
    run = importlib.import_module("run")
    file = place.result(run.Run("resnet"))
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"images": "CIFAR-10"}))
    run.check_images(place)
    file.write_text(json.dumps({"images": "CIFAR-10, JPEGs of lower quality"}))
    with pytest.raises(SystemExit, match=r"was made with CIFAR-10, JPEGs .* is CIFAR-10: .* \(--results FOLDER"):
        run.check_images(place)


def test_processes_are_one_or_more(place, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ratio.py", "--quick", "--results", str(place.folder), "--processes", "0"])
    with pytest.raises(SystemExit):
        importlib.import_module("command").command(importlib.import_module("ratio"))
    assert "argument --processes: invalid" in capsys.readouterr().err


def test_an_interrupted_night_says_how_to_go_on(place, monkeypatch) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module("command")
    monkeypatch.setattr(sys, "argv", ["ratio.py", "--quick", "--results", str(place.folder)])
    monkeypatch.setattr(module, "do_all", interrupted)
    with pytest.raises(SystemExit, match=r"finished runs are kept in .*: run it again to resume"):
        module.command(importlib.import_module("ratio"))


# -- runs ---------------------------------------------------------------------------------------------------------


def files(run, place, *, result: bool, weights: bool) -> None:
    for file, wanted in ((place.result(run), result), (place.weights(run), weights)):
        file.parent.mkdir(parents=True, exist_ok=True)
        if wanted:
            file.write_text("{}")


@pytest.mark.parametrize(("weights", "expected"), [(True, ["tuned"]), (False, ["start", "tuned"])])
def test_a_start_whose_weights_are_elsewhere_is_made_again(place, weights, expected, monkeypatch) -> None:
    run = importlib.import_module("run")
    start = run.Run("resnet", "alone", skip="FFF")
    tuned = run.Run("resnet", start=start)
    files(start, place, result=True, weights=weights)
    done: list[str] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, *_) -> None:
            super().__init__(1)

    monkeypatch.setattr(run, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(run, "do", lambda each, _: done.append("tuned" if each.start else "start"))
    monkeypatch.setattr(run.Place, "part", lambda *_: None)
    run.do_all([tuned], place)
    assert done == expected


def test_a_training_is_measured_on_other_images_without_training_again(place, monkeypatch) -> None:
    run = importlib.import_module("run")
    chosen = run.Run("resnet", "alone", skip="FFF", budget=4.0, measured_on="validation")
    asked = dataclasses.replace(chosen, measured_on="test")
    files(chosen, place, result=False, weights=True)
    torch.manual_seed(3)
    network = run.new(chosen, place.setting)
    torch.save(network.state_dict(), place.weights(chosen))
    former = {"run": dataclasses.asdict(chosen), "accuracy": {"FFF": 1.0}, "before calibrate": {"FFF": 2.0}, "steps": 7}
    run.write(place.result(chosen), former)
    monkeypatch.setattr(run.ad, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(run, "measure", lambda *_: {"accuracy": {"FFF": 3.0}})
    run.do(asked, place)
    found = json.loads(place.result(asked).read_text())
    described = dataclasses.asdict(asked) | {"changes": [], "sizes": [], "also_at": []}
    assert found == {"run": described, "steps": 7, "accuracy": {"FFF": 3.0}}
    kept = torch.load(place.weights(asked), weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    looked_at = dataclasses.replace(asked, budget=1.0)  # the figures of its way are of the other images
    assert run._measured_elsewhere(looked_at, place) is None


def test_what_is_here_is_not_trained_again(place, monkeypatch) -> None:
    run = importlib.import_module("run")
    asked = run.Run("resnet")
    files(asked, place, result=True, weights=True)
    monkeypatch.setattr(run, "new", lambda *_: pytest.fail("trained again"))
    run.do(asked, place)


def test_analysed_networks_stay_where_their_weights_are_gone(place, monkeypatch) -> None:
    rationale = importlib.import_module("rationale")
    pairs = rationale._pairs(place)
    monkeypatch.setattr(rationale, "accuracies", lambda *_: {"FFF": [1.0]})
    monkeypatch.setattr(rationale, "_measured", lambda ours, *_: f"{ours.name} measured")
    here, *elsewhere = pairs
    for each in pairs[here]:
        for run in importlib.import_module("run").seeded(each, place.setting):
            files(run, place, result=True, weights=True)
    (place.results / "rationale.json").write_text(json.dumps({"networks": dict.fromkeys(pairs, "former")}))
    found = rationale.summary(place)["networks"]
    assert found == {here: f"{pairs[here][0].name} measured"} | dict.fromkeys(elsewhere, "former")

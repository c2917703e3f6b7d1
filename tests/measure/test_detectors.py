"""Detectors evaluated, calibrated and profiled: every depth as it is alone, on lists of images."""

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

import adaptive_depth as ad
from adaptive_depth.core.sharing import SharedForward
from adaptive_depth.tasks import Detection

TESTS = Path(__file__).parents[1]
squares = runpy.run_path(str(TESTS / "squares.py"))
KINDS = ["fcos", "faster_rcnn", "mask_rcnn", "ssd"]


@pytest.fixture(scope="module")
def trained() -> ad.AdaptiveNetwork:
    """A detector that finds some squares, and not the same at every depth."""
    torch.manual_seed(0)
    network = squares["adapted"](squares["fcos"]())
    batches = [squares["pairs"](4, seed=seed) for seed in range(8)]
    ad.train(network, batches, epochs=4, lr=0.05, passes="SB", delay=1, seed=0)
    return network


def held_out(number: int = 4) -> list[Any]:
    return [squares["pairs"](3, seed=100 + seed) for seed in range(number)]


def alone(network: ad.AdaptiveNetwork, skip: str, batches: list[Any]) -> float:
    """By torchmetrics, of the extracted sub-network."""
    model, metric = network.extract(skip).eval(), MeanAveragePrecision(iou_thresholds=[0.5])
    with torch.no_grad():
        for images, targets in batches:
            wanted = [{name: target[name] for name in ("boxes", "labels")} for target in targets]
            metric.update(model(list(images)), wanted)
    return 100 * float(metric.compute()["map"])


def test_every_depth_is_judged_as_it_is_alone(trained: ad.AdaptiveNetwork, unchanged: Any) -> None:
    batches = held_out()
    with unchanged(trained):
        found = ad.evaluate(trained, batches, task=Detection(iou=0.5))
    assert found["FF"] > 10
    assert len({*found.values()}) > 1
    for skip in trained.skips:
        assert found[skip] == pytest.approx(alone(trained, skip, batches), abs=1e-4)
    assert ad.evaluate(trained, batches).quality == Detection().quality


class Counted(nn.Conv2d):
    runs = 0

    def forward(self, input: Tensor) -> Tensor:
        Counted.runs += 1
        return super().forward(input)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_prefixes_are_shared_and_outputs_are_those_of_one_after_the_other(name: str, training: bool) -> None:
    """The images of a batch go through the body in an object of torchvision's own."""
    model = squares[name]()
    model.backbone.body.stem = Counted(3, squares["WIDTH"], 3, 2, 1)
    network = squares["adapted"](model).train(training)
    task = Detection().of(network.model)
    x, _ = task.inputs(squares["pairs"]())
    if not training:
        x = task.unlabelled(x)
    shared, expected = SharedForward(network), {}
    for skip in network.skips:
        torch.manual_seed(0)
        expected[skip] = network(*x, skip=skip)
    Counted.runs = 0
    torch.manual_seed(0)
    for skip, output, _ in shared.outputs(network.skips, *x):
        if not training:  # in training, regions are drawn at random, by each sub-network anew
            for ours, theirs in zip(output, expected[skip], strict=True):
                assert all(torch.equal(value, theirs[part]) for part, value in ours.items())
        elif name in ("fcos", "ssd"):
            assert all(torch.equal(value, expected[skip][part]) for part, value in output.items())
    assert shared.shareable
    assert Counted.runs == 1


def test_the_targets_are_not_given_to_the_network(trained: ad.AdaptiveNetwork) -> None:
    """In eval mode it has no use for them, and 16 depths would each resize all masks."""
    given = []
    hook = trained.model.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    ad.evaluate(trained, held_out(1), ["FF"])
    hook.remove()
    assert [len(args) for args, _ in given] == [1]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (([torch.rand(3, 32, 32)],), "images without targets"),
        (torch.rand(2, 3, 32, 32), "images without targets"),
        (([torch.rand(3, 32, 32)], [{"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([4])}]), "from 0"),
    ],
)
def test_targets_that_are_missing_or_wrong(trained: ad.AdaptiveNetwork, batch: Any, said: str, unchanged: Any) -> None:
    with unchanged(trained), pytest.raises(ad.DataError, match=said):
        ad.evaluate(trained, [batch])


def test_images_without_boxes_count_as_places_where_nothing_is(trained: ad.AdaptiveNetwork) -> None:
    """What is found there is wrong: precision falls, and recall does not."""
    images, targets = held_out(1)[0]
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * len(images)
    with_boxes = ad.evaluate(trained, [(images, targets)], ["FF"])["FF"]
    assert ad.evaluate(trained, [(images, targets), (images, nothing)], ["FF"])["FF"] < with_boxes
    with pytest.raises(ad.MeasurementError, match="no image of this evaluation has a box"):
        ad.evaluate(trained, [(images, nothing)], ["FF"])


# -- calibration ------------------------------------------------------------------------------------------------


def by_hand(network: ad.AdaptiveNetwork, skip: str, batches: list[Any]) -> dict[str, Tensor]:
    """The statistics of a sub-network alone, by torch's own cumulative average."""
    model = network.extract(skip).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
            part.train()
    with torch.no_grad():
        for images, _ in batches:
            model(list(images))
    return {name: value for name, value in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("form", ["pairs", "named", "images", "stacked"])
def test_every_context_has_the_statistics_of_its_sub_network(trained: ad.AdaptiveNetwork, form: str) -> None:
    """Of batches with targets and without, of lists and of one tensor."""
    network = copy.deepcopy(trained)
    batches: list[Any] = held_out(3)
    if form == "stacked":
        batches = [(torch.stack([image[:, :, :32] for image in images]), targets) for images, targets in batches]
    given = batches if form in ("pairs", "named") else [images for images, _ in batches]
    assert ad.calibrate(network, given, task=Detection() if form == "named" else None) == 3
    assert network.calibrated
    for skip in network.skips:
        expected = by_hand(network, skip, batches)
        ours = {name: value for name, value in network.subnet(skip).named_buffers() if "running" in name}
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    assert ad.evaluate(network, held_out())["FF"] > 0


def test_a_task_asks_for_targets(trained: ad.AdaptiveNetwork, unchanged: Any) -> None:
    with unchanged(trained), pytest.raises(ad.DataError, match="images without targets"):
        ad.calibrate(trained, [images for images, _ in held_out(1)], task=Detection())


# -- choosing, explaining ---------------------------------------------------------------------------------------


def test_what_is_measured_is_chosen_from(trained: ad.AdaptiveNetwork, tmp_path: Path) -> None:
    quality = ad.evaluate(trained, held_out())
    images = list(held_out(1)[0][0])
    costs = ad.profile(trained, images, rounds=1, warmup=0, energy=False)
    table = ad.tradeoffs(quality, costs)
    head = str(table).partition("FF")[0].splitlines()  # where the title is in one line, or its unit below it
    place = max(line.find("mAP@[.5:.95]") for line in head) + len("mAP@[.5:.95]")
    assert any(line[:place].endswith("mAP@[.5:.95]") for line in head)
    assert any(line[: place + 2].rstrip().endswith("%") for line in head)
    assert table.best(quality=min(quality.values())) in trained.skips


@pytest.mark.parametrize("name", KINDS)
def test_detectors_are_analysed_by_their_own_losses(name: str, unchanged: Any) -> None:
    """In eval mode, where torchvision's return predictions; each loss from the same random regions."""
    network = squares["adapted"](squares[name]()).eval()
    batches = [squares["pairs"](seed=seed) for seed in range(2)]
    state = torch.get_rng_state()
    with unchanged(network):
        found = ad.analyze(network, batches)
    assert torch.equal(torch.get_rng_state(), state)
    task = Detection().of(network.model)
    losses = []
    for batch in batches:
        x, y = task.inputs(batch)
        torch.set_rng_state(state)
        model = network.subnet("TT")
        with task.with_losses(model), torch.no_grad():
            losses.append(float(task.loss(model(*x), y)))
    assert found.losses["TT"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert found.images == 4
    assert all(block.cosine is not None for block in found.blocks if block.skippable)


# -- several processes ------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, runpy, sys, torch, adaptive_depth as ad
torch.set_num_threads(1)
rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
squares = runpy.run_path(sys.argv[1])
torch.manual_seed(0)
network = squares["adapted"](squares["fcos"]())
batches = [squares["pairs"](4, seed=seed) for seed in range(8)]
ad.train(network, batches, epochs=1, lr=0.05, passes="SB", delay=1, seed=0)
batches = [squares["pairs"](1 + seed % 3, seed=100 + seed) for seed in range(5)]
found = ad.evaluate(network, batches[rank::count], ["FF", "TT"], across_processes=count > 1)
alone = ad.evaluate(network, batches, ["FF", "TT"])
chain = runpy.run_path(sys.argv[2])["Nets"].chain()
batches = [(torch.randn(4, 3, 8, 8), torch.randn(4, 5)) for _ in range(4)]
error = ad.evaluate(chain, batches[rank::count], ["FF"], task=ad.tasks.Regression(), across_processes=count > 1)
expected = ad.evaluate(chain, batches, ["FF"], task=ad.tasks.Regression())
if rank == 0:
    print(json.dumps([found | {"error": error["FF"]}, alone | {"error": expected["FF"]}]))
"""


@pytest.mark.slow
def test_processes_judge_all_images_together(tmp_path: Path) -> None:
    """Three batches here, two there: torchmetrics itself would wait for ever. Likewise the error of a regression."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(script), str(TESTS / "squares.py"), str(TESTS / "conftest.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, expected = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    assert found == pytest.approx(expected)

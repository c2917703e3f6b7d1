"""Detectors trained by every schedule and by Algorithm 1: what each pass learns, against the same by hand."""

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adaptive_depth as ad
from adaptive_depth.tasks import Detection
from adaptive_depth.tasks.features import feature_distance
from adaptive_depth.training.history import History

squares = runpy.run_path(str(Path(__file__).parents[1] / "squares.py"))
pairs = squares["pairs"]
SIZES = {"min_size": (24, 32, 40, 48)}  # one of these is drawn for each image


def network(name: str = "fcos", **more: Any) -> ad.AdaptiveNetwork:
    return squares["adapted"](squares[name](**more)).train()


def batches(number: int = 3) -> list[Any]:
    return [pairs(seed=seed) for seed in range(number)]


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def watched(net: ad.AdaptiveNetwork, skip: str, x: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The losses of a sub-network, and what its backbone returns, by a hook."""
    seen: dict[str, Any] = {}
    hook = net.subnet(skip).backbone.register_forward_hook(lambda *call: seen.update(backbone=call[2]))
    try:
        return net(*x, skip=skip), seen
    finally:
        hook.remove()


# -- passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("learn", ["labels", "features", "both"])
def test_a_pass_of_the_base_net_learns_what_was_asked(name: str, learn: str) -> None:
    """On images of the size that the super-net's have, where one is drawn for each: its features are of the same."""
    net = network(name, **SIZES)
    plain = copy.deepcopy(net)
    task = Detection(learn=learn, feature_weight=0.5).of(net.model)  # type: ignore[arg-type]
    passes = ad.Passes(net, task, ad.Schedule("SB", delay=0))
    x, y = task.inputs(pairs(seed=2))
    statistics = [{name: value.clone() for name, value in part.named_buffers()} for part in (net.model, net.skip_norms)]
    for letter, loss in zip("SB", passes(x, y), strict=True):
        if letter == "S":
            after = {name: value.clone() for name, value in net.model.named_buffers()}
            assert any(not torch.equal(value, statistics[0][name]) for name, value in after.items())
            torch.manual_seed(5)
            continue
        net.zero_grad()
        loss.backward()
        # The super-net was asked again, and its statistics are of its own pass alone.
        assert all(torch.equal(value, after[name]) for name, value in net.model.named_buffers())
        assert any(not torch.equal(value, statistics[1][name]) for name, value in net.skip_norms.named_buffers())
        torch.manual_seed(5)
        with torch.no_grad():
            _, taught = watched(plain, plain.skips[0], x)
        torch.manual_seed(5)
        losses, learnt = watched(plain, plain.skips[-1], x)
        expected = torch.zeros(())
        if learn != "features":
            expected = expected + torch.stack([*losses.values()]).sum()
        if learn != "labels":
            expected = expected + 0.5 * feature_distance(learnt, taught)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        plain.zero_grad()
        expected.backward()
        same(gradients(net), gradients(plain))


@pytest.mark.parametrize("learn", ["labels", "features", "both"])
@pytest.mark.parametrize("passes", ["SB", "SBSBR", "algorithm 1"])
@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_every_schedule_trains_and_tells_the_parts_of_the_loss(name: str, passes: str, learn: str) -> None:
    net = network(name)
    extra = {} if passes == "algorithm 1" else {"delay": 1}
    before = {skip: loss_of(net, skip) for skip in net.skips}
    history = ad.train(
        net, batches(), task=Detection(learn=learn), passes=passes, epochs=3, lr=0.02, weight_decay=0.0, seed=0, **extra
    )
    net.train()
    after = {skip: loss_of(net, skip) for skip in net.skips}
    assert after[net.skips[0]] < before[net.skips[0]]
    if learn == "labels":
        assert after[net.skips[-1]] < before[net.skips[-1]]
    last = history.epochs[-1]
    assert last.parts is not None
    assert len(last.parts) == (4 if name == "faster_rcnn" else 3)
    assert sum(last.parts.values()) == pytest.approx(last.loss, rel=1e-4)
    assert last.accuracy is None
    assert last.base_loss is not None


def loss_of(net: ad.AdaptiveNetwork, skip: str) -> float:
    task = Detection().of(net.model)
    x, y = task.inputs(pairs(seed=0))
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        loss = float(task.loss(net(*x, skip=skip), y))
    net.load_state_dict(before)
    return loss


def test_a_history_with_parts_survives_json_and_csv() -> None:
    history = ad.train(network(), batches(2), epochs=2, passes="SB", validation=batches(1))
    assert history.epochs[0].parts is not None
    assert history.epochs[-1].validation is not None
    assert History.from_json(history.to_json()) == history
    text = history.to_csv()
    assert History.from_csv(text) == history
    assert "validation TT,parts bbox_ctrness" in text.splitlines()[0]


def test_a_training_without_a_task_is_that_of_boxes() -> None:
    named, unnamed = network(), network()
    unnamed.load_state_dict(named.state_dict())
    for net, task in ((named, Detection()), (unnamed, None)):
        ad.train(net, batches(2), task=task, epochs=1, passes="SBSBR", delay=1, seed=0)
    for name, tensor in named.state_dict().items():
        assert torch.equal(tensor, unnamed.state_dict()[name]), name


def test_a_plain_detector_trains_beside() -> None:
    model = squares["fcos"]()
    history = ad.train(model, batches(2), epochs=2, lr=0.01)
    assert history.epochs[-1].parts is not None
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_checkpoints_hold_batches_of_lists(tmp_path: Path) -> None:
    """A training that was interrupted in the middle of an epoch is the one that was not."""

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyError

    whole, resumed = network(**SIZES), network(**SIZES)
    resumed.load_state_dict(whole.state_dict())
    options: dict[str, Any] = {"epochs": 2, "passes": "SB", "delay": 1, "seed": 0, "task": Detection(learn="both")}
    ad.train(whole, batches(), **options)
    with pytest.raises(KeyError):
        ad.train(resumed, batches(), folder=tmp_path, checkpoint_every=1, on_step=stop, **options)
    ad.train(resumed, batches(), folder=tmp_path, checkpoint_every=1, resume=True, **options)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_validation_is_tried_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    images, targets = pairs()
    wrong = tuple(each | {"labels": each["labels"] + 9} for each in targets)
    with pytest.raises(ad.DataError, match="expected labels of this FCOS, from 0 to 3"):
        ad.evaluate(net, [(images, wrong)])
    monkeypatch.setattr("torchmetrics.detection.mean_ap._PYCOCOTOOLS_AVAILABLE", False)
    monkeypatch.setattr("torchmetrics.detection.mean_ap._FASTER_COCO_EVAL_AVAILABLE", False)
    with pytest.raises(ad.MeasurementError, match=r'not installed .*: pip install "adaptive-depth\[det'):
        ad.train(net, batches(), epochs=1, validation=batches(1))
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("learn", ["features", "both"])
def test_mixed_precision_learns_the_same(learn: str) -> None:
    """Weights that were cast for the super-net's pass, without gradients, are not those of the pass that learns."""
    net = network()
    task = Detection(learn=learn)  # type: ignore[arg-type]
    found = {}
    for enabled in (False, True):
        own = copy.deepcopy(net)
        passes = ad.Passes(own, task, ad.Schedule("SB", delay=0))
        for _, batch in zip("SB", passes(*passes.task.inputs(pairs())), strict=True):
            del batch
        item = {"skip": "TT", "letter": "B", "batch": 0, "part": 0, "teacher": None}
        x, y = passes.task.inputs(pairs())
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            passes.learn({"x": x, "y": y, **item}).loss.backward()
        found[enabled] = gradients(own)
    assert found[True].keys() == found[False].keys()
    first = "model.backbone.body.stem.weight"
    assert found[True][first].norm() == pytest.approx(found[False][first].norm().item(), rel=0.2)


# -- Algorithm 1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("learn", ["labels", "features", "both"])
def test_algorithm_1_by_hand(learn: str, form: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an FCOS whose images have a size that is drawn: super-net and base-net see the same one."""
    net = network(**SIZES)
    plain = copy.deepcopy(net)
    task = Detection(learn=learn, feature_weight=0.5).of(net.model)  # type: ignore[arg-type]
    objective = ad.SelfDistillation(net, task)
    x, y = task.inputs(pairs(seed=2))
    objective(x, y)  # whose first call tries whether the two can share
    assert objective._shared is not None
    assert objective._shared.shareable
    objective._shared.shareable = shared
    net.load_state_dict(plain.state_dict())
    net.zero_grad()
    torch.manual_seed(5)
    if form == "call":
        losses = objective(x, y)
        losses.total.backward()
    else:
        losses = objective.backward(x, y)
    torch.manual_seed(5)
    super_losses, taught = watched(plain, plain.skips[0], x)
    torch.manual_seed(5)
    base_losses, learnt = watched(plain, plain.skips[-1], x)
    deep = torch.stack([*super_losses.values()]).sum()
    parts = []
    if learn != "features":
        parts.append(torch.stack([*base_losses.values()]).sum())
    if learn != "labels":
        parts.append(0.5 * feature_distance(learnt, taught))
    shallow = torch.stack(parts).sum()
    if learn == "labels" and not shared:  # nothing is compared, so each draws sizes of its own
        assert losses.super_net.item() == pytest.approx(deep.item(), rel=1e-5)
        return
    assert losses.super_net.item() == pytest.approx(deep.item(), rel=1e-5)
    assert losses.base_net.item() == pytest.approx(shallow.item(), rel=1e-4)
    (deep + shallow).backward()
    same(gradients(net), gradients(plain))


def test_algorithm_1_may_learn_from_labels_whatever_the_task_says() -> None:
    net = network()
    objective = ad.SelfDistillation(net, Detection(learn="features"), learn_from="labels")
    x, y = objective.task.inputs(pairs())
    losses = objective(x, y)
    assert losses.base_net.item() == pytest.approx(sum(float(part) for part in losses.base_output.values()), rel=1e-5)


def test_the_papers_feature_term_goes_with_the_pyramids() -> None:
    net = network()
    objective = ad.SelfDistillation(net, Detection(learn="features"), feature_weight=0.1)
    losses = objective(*objective.task.inputs(pairs()))
    assert losses.features is not None
    assert losses.features.item() > 0
    losses.total.backward()


# -- what is refused --------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    net = network()
    with pytest.raises(ad.TrainingError, match=r"teacher_share=0\.5 compares outputs, but a detector's are boxes: exp"):
        ad.Passes(net, Detection(), ad.Schedule("SB", teacher_share=0.5))
    with pytest.raises(ad.TrainingError, match=r"looks inside the passes \(backbone\): let sub-networks learn from la"):
        ad.Passes(net, Detection(learn="both")).module.compile()
    objective = ad.SelfDistillation(net, Detection(learn="both"))
    with pytest.raises(ad.TrainingError, match="looks inside the passes: leave it out, or do not compile them"):
        objective.compile()
    with pytest.raises(
        ad.TrainingError, match=r"distil_share=0\.5 selects samples of a batch, but a detector's losses"
    ):
        ad.SelfDistillation(net, Detection(), distil_share=0.5)
    with pytest.raises(ad.TrainingError, match="but that of a Chain is unknown"):
        ad.Passes(chain(), Detection(learn="features"))


def chain() -> ad.AdaptiveNetwork:
    conftest = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    return conftest["Nets"].chain()


def test_frozen_backbones_have_nothing_to_learn_from_features(unchanged: Any) -> None:
    net = network()
    for part in (net.model.backbone, net.skip_norms):
        part.requires_grad_(False)
    passes = ad.Passes(net, Detection(learn="both"), ad.Schedule("SB", delay=0))
    losses = passes(*passes.task.inputs(pairs()))
    next(losses)
    with unchanged(net), pytest.raises(ad.TrainingError, match="compares what backbone returns, but all of its param"):
        next(losses)

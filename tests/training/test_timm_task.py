"""training/timm_task.py: the loop of timm's script against plain loops of our own, its checkpoints and averages."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm import utils
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import load_task_ema_checkpoint, resume_task_checkpoint
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training.timm_task import StepLoader, TimmTask, as_task_of_timm

SCHEDULE = ad.Schedule("SBSBR", delay=1)
Y = torch.tensor([0, 3, 1, 4])


def batches(count: int = 6, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, size, size, generator=generator), Y.roll(number)) for number in range(count)]


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    return create_optimizer_v2(module, "sgd", lr=0.05, momentum=0.9, weight_decay=1e-3)  # type: ignore[arg-type]


def epoch(task: TimmTask, loader: Any, optimizer: torch.optim.Optimizer) -> Iterator[dict[str, Any]]:
    """What timm's script does in an epoch."""
    trainable: Any = task.get_trainable_module()
    trainable.train()
    last = len(loader) - 1
    optimizer.zero_grad()
    for index, (images, labels) in enumerate(loader):
        result = task(images, labels)
        result["loss"].backward()
        utils.dispatch_clip_grad(task.get_clip_parameters(), value=1.0)
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema(step=index + 1)
        yield result
        assert index <= last


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


# -- a schedule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chain", "transformer"])
def test_the_loop_of_timm_makes_the_passes_that_a_loop_of_ones_own_makes(kind: str, nets: Any) -> None:
    network = getattr(nets, kind)().train()
    plain = copy.deepcopy(network)
    passes = ad.Passes(plain, nn.CrossEntropyLoss(), SCHEDULE)
    optimizer, expected = optimizer_of(plain), []
    for x, y in batches() * 2:
        for loss in passes(x, y):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            expected.append(loss.item())

    task = TimmTask(ad.Passes(network, nn.CrossEntropyLoss(), SCHEDULE), verbose=False)
    loader, optimizer = task.over(batches()), optimizer_of(task.get_trainable_module())  # type: ignore[arg-type]
    # 0: S, 1: SB, 2: SB, 3: SBR, 4: SB, 5: SBR (R is of two batches ago); then SB and SBR in turn.
    assert len(loader) == 13
    first = list(epoch(task, loader, optimizer))
    assert len(loader) == 15
    results = [*first, *epoch(task, loader, optimizer)]
    assert [result["loss"].item() for result in results] == expected
    assert len(expected) == 28
    assert same(network, plain)

    named = [next(name for name in result if name not in ("loss", "output")) for result in first]
    letters = {"S": "super_net_loss", "B": "base_net_loss", "R": "intermediate_loss"}
    assert named == [letters[letter] for letter in "SSBSBSBRSBSBR"]
    for result, name in zip(first, named, strict=True):
        assert result[name].item() == result["loss"].item()
        assert not result[name].requires_grad
        assert not result["output"].requires_grad
    assert first[0]["loss"].item() == pytest.approx(F.cross_entropy(first[0]["output"], Y).item(), rel=1e-6)


def test_a_fresh_schedule_needs_no_loader_of_steps(nets: Any) -> None:
    """Each batch of the plain loader serves one pass."""
    network, fresh = nets.chain().train(), ad.Schedule("SB", fresh=True)
    plain = copy.deepcopy(network)
    optimizer = optimizer_of(plain)
    for number, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        F.cross_entropy(plain(x, skip="FF" if number % 2 == 0 else "TT"), y).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    task = TimmTask(ad.Passes(network, schedule=fresh), verbose=False)
    results = list(epoch(task, batches(), optimizer_of(task.trainable_module)))
    assert same(network, plain)
    assert ["super_net_loss" in result for result in results] == [True, False] * 3
    assert task.passes is not None
    assert (task.passes.steps_done, task.passes.waiting) == (6, [])

    again = TimmTask(ad.Passes(nets.chain().train(), schedule=fresh), verbose=False)
    assert len(list(epoch(again, again.over(batches()), optimizer_of(again.trainable_module)))) == 6


def test_the_passes_learn_from_what_the_loop_made_of_a_batch(nets: Any) -> None:
    """It may have moved, laid out or mixed it; what waits for a later pass stays as it was."""
    task = TimmTask(ad.Passes(nets.chain().train(), as_task_of_timm(SoftTargetCrossEntropy()), SCHEDULE), verbose=False)
    mixup, kept = Mixup(mixup_alpha=1.0, num_classes=5), {}
    data = batches()
    for number, (x, y) in enumerate(task.over(data)):
        before, images = task.passes.state()[0], x.clone()
        for name, tensor in before.items():
            assert torch.equal(tensor, kept.setdefault(name, tensor.clone()))
        mixed, targets = mixup(x, y)
        assert mixed is x
        assert not torch.equal(x, images)
        result = task(mixed, targets)
        if number == 0:
            assert result["loss"].item() == pytest.approx(F.cross_entropy(result["output"], targets).item(), rel=1e-6)
        with torch.no_grad():
            task.zero_grad()
    assert len(kept) == 12  # images and labels of six batches


def test_mixed_images_have_no_answer_of_the_super_net(nets: Any, unchanged: Any) -> None:
    """S0, S1, B0 with a share of what the super-net answered to batch 0."""
    schedule = ad.Schedule("SB", delay=1, teacher_share=0.5)
    task = TimmTask(ad.Passes(nets.chain().train(), schedule=schedule), verbose=False)
    steps = iter(task.over(batches()))
    answers = [task(*next(steps))["output"] for _ in range(2)]
    x, y = next(steps)
    due = task.due
    with (
        unchanged(task),
        pytest.raises(ad.TrainingError, match=r"\[4\] into \[4, 5\].*FastCollateMixup.*teacher_share"),
    ):
        task(x, F.one_hot(y, 5).float())
    task.due = due
    result = task(x, y)
    output, teacher = task.get_eval_model()(x, skip="TT"), answers[0]
    expected = (ad.distillation_loss(teacher, output) + F.cross_entropy(output, y)) / 2
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


# -- Algorithm 1 ------------------------------------------------------------------------------------------------


def test_algorithm_1_is_a_task_too(nets: Any) -> None:
    network = nets.chain().train()
    plain = copy.deepcopy(network)
    expected, optimizer, losses = ad.SelfDistillation(plain, feature_weight=0.1), optimizer_of(plain), None
    for x, y in batches():
        optimizer.zero_grad()
        losses = expected(x, y)
        losses.total.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    assert losses is not None
    task = TimmTask(ad.SelfDistillation(network, feature_weight=0.1), verbose=False)
    loader = task.over(batches())
    assert len(loader) == 6
    *_, last = epoch(task, loader, optimizer_of(task.trainable_module))
    assert same(network, plain)
    assert list(last) == ["loss", "output", "super_net_loss", "base_net_loss", "feature_loss"]
    assert last["loss"].item() == losses.total.item()
    assert [last[name].item() for name in list(last)[2:]] == [
        losses.super_net.item(), losses.base_net.item(), losses.features.item(),  # type: ignore[union-attr]
    ]  # fmt: skip
    assert torch.equal(last["output"], losses.super_output)


# -- checkpoints and averages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["passes", "algorithm 1"])
def test_checkpoints_of_timm_resume(way: str, nets: Any, tmp_path: Path) -> None:
    """Two epochs equal one, a checkpoint and another one: weights, averages, momentum, batches that wait."""

    def new() -> tuple[TimmTask, Any, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nets.chain().train()
        objective = ad.Passes(network, schedule=SCHEDULE) if way == "passes" else ad.SelfDistillation(network)
        task = TimmTask(objective, verbose=False)
        return task, task.over(batches()), optimizer_of(task.trainable_module)

    whole, loader, optimizer = new()
    whole.setup_ema(decay=0.5)
    list(epoch(whole, loader, optimizer))
    saver = utils.CheckpointSaver(whole.trainable_module, optimizer, checkpoint_dir=str(tmp_path), task=whole)
    saver.save_checkpoint(0, metric=1.0)
    expected = [result["loss"].item() for result in epoch(whole, loader, optimizer)]

    task, loader, optimizer = new()
    file = tmp_path / "last.pth.tar"
    assert resume_task_checkpoint(task, file, optimizer, log_info=False) == 1
    task.setup_ema(decay=0.5)
    load_task_ema_checkpoint(task, file)
    assert len(loader) == (15 if way == "passes" else 6)
    assert [result["loss"].item() for result in epoch(task, loader, optimizer)] == expected
    assert same(task.get_eval_model(), whole.get_eval_model())
    assert same(task.get_eval_model(ema=True), whole.get_eval_model(ema=True))

    kept = torch.load(file, weights_only=True)
    network = nets.chain()
    network.load_state_dict(kept["state_dict"])  # a network's own, without the task's names
    assert set(kept["state_dict_ema"]) == set(kept["state_dict"])
    assert ("task_state" in kept, "task_state_ema" in kept) == (way == "passes", False)


def test_a_checkpoint_resumes_with_the_objective_that_made_it_or_says_so(nets: Any, unchanged: Any) -> None:
    passes = TimmTask(ad.Passes(nets.chain().train(), schedule=SCHEDULE), verbose=False)
    algorithm_1 = TimmTask(ad.SelfDistillation(nets.chain()), verbose=False)
    state = passes.get_task_state()
    with pytest.raises(
        ad.CheckpointError, match=r"without a schedule of passes.*trains by a schedule.*load_state_dict"
    ):
        passes.load_task_state(None)
    with pytest.raises(ad.CheckpointError, match=r"made with a schedule of passes.*trains by Algorithm 1"):
        algorithm_1.load_task_state(state)
    for damaged in ({"passes": {"tensors": {}}}, {"passes": 3}, {"passes": {"tensors": {}, "facts": {"loaded": 1}}}):
        with pytest.raises(ad.CheckpointError, match="state of the passes is damaged"):
            passes.load_task_state(damaged)
    passes.load_task_state(None, strict=False)
    passes.load_task_state(None, ema=True)
    algorithm_1.load_task_state(None)


def test_averages_follow_every_step(nets: Any) -> None:
    """decay 0.5: after each step the average is the mean of itself and the weights; the first step copies them."""
    network = nets.chain().train()
    task = TimmTask(ad.Passes(network, schedule=SCHEDULE), verbose=False)
    assert task.get_eval_model(ema=True) is None
    assert task.compile_ema() is None
    assert not task.has_ema()
    task.setup_ema(decay=0.5)
    name, expected = "model.stem.weight", None
    for _ in epoch(task, task.over(batches()), optimizer_of(task.trainable_module)):
        weights = network.state_dict()[name].clone()
        expected = weights if expected is None else (expected + weights) / 2
    averaged = task.get_eval_model(ema=True)
    assert isinstance(averaged, ad.AdaptiveNetwork)
    assert averaged is not network
    torch.testing.assert_close(averaged.state_dict()[name], expected)
    assert not averaged.training
    assert not torch.equal(averaged(batches()[0][0]), averaged(batches()[0][0], skip="TT"))


def test_averages_of_a_calibrated_network(nets: Any) -> None:
    """Training forgets its statistics for each context, so the average must have none either."""
    network = nets.chain()
    ad.calibrate(network, batches())
    task = TimmTask(ad.Passes(network, schedule=SCHEDULE), verbose=False)
    task.setup_ema(decay=0.0)
    list(epoch(task, task.over(batches()), optimizer_of(task.trainable_module)))
    assert not network.calibrated
    assert same(task.get_eval_model(ema=True), network)


# -- what else timm's loop asks for -----------------------------------------------------------------------------


def test_hints_for_optimisers_reach_the_network(randomised: Any) -> None:
    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=12, num_classes=5)
    assert set(model.no_weight_decay()) >= {"pos_embed", "cls_token"}
    task = TimmTask(ad.Passes(ad.adapt(model)), verbose=False)
    trainable: Any = task.get_trainable_module()
    names = {id(parameter): name for name, parameter in trainable.named_parameters()}
    optimizer = create_optimizer_v2(trainable, "sgd", lr=1.0, weight_decay=0.1)
    plain = {
        names[id(each)] for group in optimizer.param_groups if not group["weight_decay"] for each in group["params"]
    }
    assert {"objective.network.model.pos_embed", "objective.network.model.cls_token"} <= plain
    assert "objective.network.model.blocks.0.attn.qkv.weight" not in plain

    optimizer = create_optimizer_v2(trainable, "sgd", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {names[id(each)]: group["lr_scale"] for group in optimizer.param_groups for each in group["params"]}
    # Layers: patches 0, blocks 1 to 12, norm and head 13, each with half the rate of the next.
    assert scale["objective.network.model.head.weight"] == 1
    assert scale["objective.network.model.blocks.11.attn.qkv.weight"] == 0.5
    assert scale["objective.network.model.patch_embed.proj.weight"] == 0.5**13
    skip_norms = [name for name in scale if "skip_norms" in name]
    assert skip_norms
    for name in skip_norms:
        assert scale[name] == scale[name.replace("skip_norms", "model")]
    assert len(scale) == len(list(task.get_eval_model().parameters()))


def test_layers_of_a_model_that_names_none(nets: Any) -> None:
    task = TimmTask(ad.Passes(nets.chain()), verbose=False)
    with pytest.raises(
        ad.TrainingError, match=r"layer_decay\) received a Chain.*group_matcher\(\).*leave layer_decay out"
    ):
        create_optimizer_v2(task.trainable_module, "sgd", lr=1.0, layer_decay=0.5)  # type: ignore[arg-type]


def test_adaptive_clipping_leaves_the_classifier_out(nets: Any) -> None:
    network = nets.resnet()
    task = TimmTask(ad.Passes(network), verbose=False)
    everything = {id(parameter) for parameter in network.parameters()}
    clipped = {id(parameter) for parameter in task.get_clip_parameters(exclude_head=True)}
    assert {id(parameter) for parameter in task.get_clip_parameters()} == everything
    assert everything - clipped == {id(network.model.fc.weight), id(network.model.fc.bias)}


def test_compiled_passes_and_averages_compute_the_same(nets: Any) -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = TimmTask(ad.Passes(nets.chain().train(), schedule=ad.Schedule("SB", delay=1)), verbose=False)
        task.setup_ema(decay=0.5)
        if compiled:
            assert task.compile(backend="aot_eager") is task.get_eval_model()
            assert task.passes.module._compiled.asked  # type: ignore[union-attr]
            assert task.compile_ema(backend="aot_eager") is task.get_eval_model(ema=True)
            assert task.get_eval_model(ema=True).subnet("FF")._compiled_call_impl is not None
        found = [result["loss"] for result in epoch(task, task.over(batches(2)), optimizer_of(task.trainable_module))]
        losses.append([*found, task.get_eval_model(ema=True)(batches(1)[0][0]).sum()])
    torch.testing.assert_close(losses[0], losses[1])


def test_several_processes(nets: Any, tmp_path: Path) -> None:
    """One process of DDP trains as none does; a pass leaves parameters out, and device_ids are for accelerators."""
    network = nets.chain().train()
    plain = copy.deepcopy(network)
    task, expected = (TimmTask(ad.Passes(each, schedule=SCHEDULE), verbose=False) for each in (network, plain))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert task.prepare_distributed(device_ids=[torch.device("cpu")]) is task
        optimizer = optimizer_of(network)
        list(epoch(task, task.over(batches()), optimizer))
        with task.no_sync():
            pass
        assert task.get_eval_model() is network
    finally:
        dist.destroy_process_group()
    list(epoch(expected, expected.over(batches()), optimizer_of(plain)))
    assert same(network, plain)


def test_the_evaluator_is_that_of_the_task(nets: Any) -> None:
    x, y = batches(1)[0]
    network = nets.chain().eval()
    evaluator = TimmTask(ad.Passes(network), verbose=False).create_evaluator(max_samples=3)
    evaluator.update(network(x), y)
    hits = (network(x).argmax(1) == y)[:3].sum().item()
    assert evaluator.compute()["top1"] == pytest.approx(100 * hits / 3)

    several = TimmTask(ad.Passes(network, nn.BCEWithLogitsLoss()), verbose=False).create_evaluator()
    several.update(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.eye(2))
    assert several.compute()["map"] == 100
    own = TimmTask(ad.Passes(network, BinaryCrossEntropy()), verbose=False).create_evaluator()
    assert own.default_metric == "top1"
    heads = ad.tasks.Heads({"one": ad.tasks.Classification(), "two": ad.tasks.Regression()}, judged_by="two")
    for other in (nn.MSELoss(), heads, ad.tasks.Segmentation()):
        task = TimmTask(ad.Passes(network, other), verbose=False)
        with pytest.raises(
            ad.TrainingError, match=r"no evaluator for the task .*Classification or MultiLabel.*evaluate"
        ):
            task.create_evaluator()


def test_softmax_losses_of_timm_can_be_distilled(nets: Any) -> None:
    for criterion in (LabelSmoothingCrossEntropy(0.1), SoftTargetCrossEntropy()):
        task = as_task_of_timm(criterion)
        assert isinstance(task, ad.tasks.Classification)
        ad.SelfDistillation(nets.chain(), task)
    assert isinstance(as_task_of_timm(BinaryCrossEntropy()), ad.tasks.OwnCriterion)
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    said = r"BinaryCrossEntropy does not cover two outputs.*name the task"  # sigmoids, whatever the labels are
    with pytest.raises(ad.TrainingError, match=said):
        TimmTask(ad.SelfDistillation(nets.chain(), as_task_of_timm(BinaryCrossEntropy())))(*batch)
    with pytest.raises(ad.TrainingError, match=said):
        next(ad.Passes(nets.chain(), BinaryCrossEntropy(), ad.Schedule("SB", teacher_share=0.5))(*batch))


def test_it_says_what_it_trains(nets: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        task = TimmTask(ad.Passes(nets.chain(), schedule=SCHEDULE), dtype=torch.bfloat16)
    assert "TimmTask: Schedule(pattern='SBSBR', delay=1" in caplog.text
    assert (task.device, task.dtype) == (torch.device("cpu"), torch.bfloat16)


# -- the loader -------------------------------------------------------------------------------------------------


class Loader(list[Any]):
    """With what timm's script asks of its loaders."""

    mixup_enabled = True
    sampler = "sampler"


def test_a_loader_of_steps_is_otherwise_the_loader_inside(nets: Any) -> None:
    inside = Loader(batches())
    loader = StepLoader(inside)
    assert loader.sampler == "sampler"
    loader.mixup_enabled = False
    assert not inside.mixup_enabled
    assert not hasattr(loader, "dataset")
    for use in (len, list):
        with pytest.raises(ad.TrainingError, match=r"follows no task yet: set loader.task"):
            use(loader)
    loader.task = TimmTask(ad.Passes(nets.chain().train(), schedule=SCHEDULE), verbose=False)
    assert len(loader) == len(list(epoch(loader.task, loader, optimizer_of(loader.task.trainable_module)))) == 13
    assert copy.copy(loader).sampler == "sampler"


def test_a_pass_is_made_before_the_next_one_is_fetched(nets: Any, unchanged: Any) -> None:
    task = TimmTask(ad.Passes(nets.chain().train(), schedule=SCHEDULE), verbose=False)
    with unchanged(task), pytest.raises(ad.TrainingError, match=r"fetched before the pass of the last.*not around it"):
        list(task.over(batches()))
    x, y = next(iter(task.over(batches())))  # a loop that was broken off there may begin again
    task(x, y)
    task.zero_grad()
    with unchanged(task), pytest.raises(ad.TrainingError, match=r"no pass is due for: expected those of task.over"):
        task(x, y)


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [nn.Linear(1, 1), None, "resnet18"])
def test_something_that_is_no_objective(given: Any) -> None:
    with pytest.raises(
        ad.TrainingError, match=rf"received a {type(given).__name__}: expected an objective.*adapt\(model"
    ):
        TimmTask(given)


def test_a_network_that_is_not_adapted() -> None:
    model: Any = timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16))
    for objective in (ad.Passes, ad.SelfDistillation):
        with pytest.raises(ad.TrainingError, match=r"received a ResNet: expected an adapted network, adapt\(model\)"):
            TimmTask(objective(model))


def test_a_batch_without_a_target(nets: Any, unchanged: Any) -> None:
    x = batches()[0][0]
    network = nets.chain().train()
    task = TimmTask(ad.Passes(network, schedule=SCHEDULE), verbose=False)
    with unchanged(network), pytest.raises(ad.DataError, match=r"without labels: expected pairs \(input, labels\)"):
        list(task.over([x]))
    for other in (ad.SelfDistillation(network), ad.Passes(network, schedule=ad.Schedule("SB", fresh=True))):
        with unchanged(network), pytest.raises(ad.TrainingError, match="the target is a NoneType: expected one tensor"):
            TimmTask(other, verbose=False)(x, None)


def test_gradients_of_passes_are_not_accumulated(nets: Any, unchanged: Any) -> None:
    network = nets.chain().train()
    task = TimmTask(ad.Passes(network, schedule=SCHEDULE), verbose=False)
    steps = iter(task.over(batches()))
    task(*next(steps))["loss"].backward()
    with (
        unchanged(network),
        pytest.raises(ad.TrainingError, match=r"previous step are still there.*--grad-accum-steps 1"),
    ):
        task(*next(steps))
    task.zero_grad(set_to_none=False)  # zeros would have momentum and decay
    with pytest.raises(ad.TrainingError, match="set_to_none=True"):
        task(*next(iter(task.over(batches()))))


def test_a_loader_without_a_length(nets: Any) -> None:
    task = TimmTask(ad.Passes(nets.chain(), schedule=SCHEDULE), verbose=False)
    with pytest.raises(ad.DataError, match="a generator has no length"):
        list(task.over(batch for batch in batches()))

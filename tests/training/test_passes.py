"""training/passes.py: a step for each sub-network, against loops written by hand in plain PyTorch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training.passes import gathers
from adaptive_depth.training.schedule import Due

Y = torch.tensor([0, 3, 1, 4])
KINDS = ["resnet", "transformer", "chain"]


def batches(kind, count=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = 32 if kind == "resnet" else 8
    return [(torch.randn(4, 3, size, size, generator=generator), Y.roll(number)) for number in range(count)]


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def by_hand(network, optimizer, data, order, skips):
    """Algorithm of method.md, section 7: for each (letter, batch) one step of a sub-network on labels alone."""
    for (_, batch), skip in zip(order, skips, strict=True):
        x, y = data[batch]
        norms = {id(part): dict(part.named_buffers(recurse=False)) for part in network.modules() if gathers(part)}
        before = {key: {name: value.clone() for name, value in own.items()} for key, own in norms.items()}
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(x, skip=skip), y).backward()
        optimizer.step()
        if skip not in (network.skips[0], network.skips[-1]):  # statistics are those of the ends
            with torch.no_grad():
                for key, own in norms.items():
                    for name, value in own.items():
                        value.copy_(before[key][name])


@pytest.mark.parametrize("way", ["plain", "recomputed", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_the_one_written_by_hand(kind, way, nets, randomised):
    network = randomised(getattr(nets, kind)()).double().train()
    plain = copy.deepcopy(network)
    data = [(x.double(), y) for x, y in batches(kind)]
    schedule = ad.Schedule("SBSBR", delay=1, seed=3)
    passes = ad.Passes(network, nn.CrossEntropyLoss(), schedule)
    if way == "recomputed":
        network.set_grad_checkpointing()
    if way == "compiled":
        passes.module.compile(backend="aot_eager")
    optimizer = sgd(network)
    for x, y in data:
        for loss in passes(x, y):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    dues = [due for batch in range(len(data)) for due in schedule.due(batch)]
    skips = [schedule.skip_of(due, network.skips) for due in dues]
    assert len(set(skips)) > 2
    by_hand(plain, sgd(plain), data, [due[:2] for due in dues], skips)
    for (name, ours), theirs in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)
    assert passes.steps_done == schedule.steps(len(data)) == len(dues)


class InTurn(ad.Schedule):
    """A schedule of one's own: the super-net on each batch, and on the batch before it one of the others in turn."""

    kept = 2

    def due(self, batch):
        yield Due("S", batch, batch)
        if batch:
            yield Due("other", batch - 1, batch - 1)

    def steps(self, batches):
        return max(0, 2 * batches - 1)

    def skip_of(self, due, skips):
        return skips[0] if due.letter == "S" else skips[1 + due.drawn % (len(skips) - 1)]


class WithoutSuperNet(ad.Schedule):
    def due(self, batch):
        yield Due("B", batch, batch)


@pytest.mark.parametrize("form", ["own loop", "loader of steps"])
def test_a_schedule_of_ones_own_is_a_class_and_nothing_else(form, nets):
    network = nets.chain().double().train()
    plain = copy.deepcopy(network)
    data = [(x.double(), y) for x, y in batches("chain", 5)]
    passes = ad.Passes(network, schedule=InTurn())
    optimizer = sgd(network)
    losses = (loss for x, y in data for loss in passes(x, y))
    if form == "loader of steps":
        items = passes.over(data)
        assert len(items) == 9
        losses = (passes.learn(item).loss for item in items)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    order = [("S", 0), ("S", 1), ("other", 0), ("S", 2), ("other", 1), ("S", 3), ("other", 2), ("S", 4), ("other", 3)]
    by_hand(plain, sgd(plain), data, order, ["FF", "FF", "FT", "FF", "TF", "FF", "TT", "FF", "FT"])
    for (name, ours), theirs in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)


def test_a_schedule_of_ones_own_that_never_trains_the_super_net(nets, unchanged):
    network = nets.chain()
    with unchanged(network), pytest.raises(ad.TrainingError, match="WithoutSuperNet does not train the super-net on"):
        ad.Passes(network, schedule=WithoutSuperNet())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pass_leaves_out_is_not_touched(kind, nets):
    """No momentum, decay or update reaches blocks and norms that a step did not use."""
    network = getattr(nets, kind)().train()
    passes = ad.Passes(network, schedule=ad.Schedule("SB", delay=0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    used = {"S": set(network.subnet(network.skips[0]).parameters()), "B": set()}
    used["B"] = set(network.subnet(network.skips[-1]).parameters())
    for x, y in batches(kind, 3):
        for loss, letter in zip(passes(x, y), "SB", strict=True):
            before = {parameter: parameter.detach().clone() for parameter in network.parameters()}
            numbers = {p: copy.deepcopy(optimizer.state[p]) for p in network.parameters() if p in optimizer.state}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            outside = [parameter for parameter in network.parameters() if parameter not in used[letter]]
            assert outside
            for parameter in outside:
                assert parameter.grad is None
                assert torch.equal(parameter, before[parameter])
                if parameter in numbers:
                    assert all(torch.equal(optimizer.state[parameter][n], v) for n, v in numbers[parameter].items())
            assert any(not torch.equal(parameter, before[parameter]) for parameter in used[letter])


def test_running_statistics_are_gathered_by_the_ends_alone(nets):
    network = nets.chain().train()
    passes = ad.Passes(network, schedule=ad.Schedule("SRB", delay=0))
    for x, y in batches("chain", 4):
        seen = []
        for due in passes.load([(x, y)]):
            before = {name: value.clone() for name, value in network.named_buffers()}
            homes = {name: id(value) for name, value in network.named_buffers()}
            passes.learn(passes.items(due)[0]).loss.backward()
            changed = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
            assert {name: id(value) for name, value in network.named_buffers()} == homes
            seen.append((due.letter, changed))
            passes.done()
        (_, deep), (_, between), (_, shallow) = seen
        assert not between
        assert any(name.startswith("skip_norms.") for name in shallow)
        assert not any(name.startswith("skip_norms.") for name in deep)
        assert deep


def test_statistics_per_context_are_measured_anew_after_more_training(nets):
    network = nets.chain()
    ad.calibrate(network, [x for x, _ in batches("chain", 2)])
    assert network.calibrated
    network.train()
    list(ad.Passes(network)(*batches("chain", 1)[0]))
    assert not network.calibrated


def test_train_makes_the_same_steps_as_the_users_loop(nets):
    fields = {"lr": 0.05, "weight_decay": 0.0, "schedule": "multistep", "milestones": [9], "warmup_epochs": 0}
    network = nets.transformer()
    own = copy.deepcopy(network).train()
    data = batches("transformer", 10)
    ad.train(network, data, epochs=1, delay=2, **fields)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    passes = ad.Passes(own, schedule=ad.Schedule(delay=2))
    for x, y in data:
        for loss in passes(x, y):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for (name, ours), theirs in zip(network.state_dict().items(), own.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_parts_of_a_step_add_up(nets):
    network = nets.transformer().double()
    halves = copy.deepcopy(network)
    data = [(x.double(), y) for x, y in batches("transformer", 8)]
    fields = {"epochs": 2, "lr": 0.05, "delay": 1, "clip_grad": 0.5, "ema": 0.9}
    whole = ad.train(network, data, **fields)
    parts = [part for x, y in data for part in zip(x.chunk(2), y.chunk(2), strict=True)]
    divided = ad.train(halves, parts, accumulate=2, **fields)
    for (name, ours), theirs in zip(network.state_dict().items(), halves.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)
    for a, b in zip(whole.epochs, divided.epochs, strict=True):
        assert a.loss == pytest.approx(b.loss)
        assert a.base_loss == pytest.approx(b.base_loss)
        assert (a.accuracy, a.base_accuracy) == (b.accuracy, b.base_accuracy)


def test_a_loader_of_steps_gives_what_the_call_gives(nets):
    network = nets.transformer().train()
    other = copy.deepcopy(network)
    data = batches("transformer", 12)
    called, stepped = (ad.Passes(each, schedule=ad.Schedule(delay=2)) for each in (network, other))
    losses = [float(loss.detach()) for x, y in data for loss in called(x, y)]
    loader = stepped.over(data)
    items = [(item["skip"], float(stepped.learn(item).loss.detach())) for item in loader]
    assert [loss for _, loss in items] == losses
    assert len(items) == stepped.schedule.steps(12) == 26
    assert len(loader) == 30  # of a later epoch
    assert len(list(loader)) == 30
    with pytest.raises(ad.DataError, match="has no length: expected a list or DataLoader"):
        stepped.over(iter(data))
    with pytest.raises(ad.DataError, match="without labels"):
        next(iter(stepped.over([data[0][0]])))


def test_averaged_weights_cover_as_many_images_whatever_the_schedule(nets):
    """12 batches make 28 steps, so the decay of a step is the 12/28th power of the one for a batch."""
    network, data = nets.transformer(), batches("transformer", 6)
    steps = ad.Schedule(delay=1).steps(12)
    assert steps == 12 + 11 + 5
    expected = copy.deepcopy(network.state_dict())
    plain = copy.deepcopy(network)
    told = []

    def on_step(now):
        for name, value in plain_now().items():
            if value.is_floating_point():
                expected[name].lerp_(value, 1 - 0.9 ** (12 / steps))
        told.append(now.step)

    def plain_now():
        return {name: value.detach().clone() for name, value in network.state_dict().items()}

    fields = {"epochs": 2, "lr": 0.05, "delay": 1, "seed": 0}
    ad.train(network, data, ema=0.9, on_step=on_step, **fields)
    assert told == list(range(1, steps + 1))
    for (name, ours), theirs in zip(network.state_dict().items(), expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
    ad.train(plain, data, **fields)
    assert not torch.allclose(plain.model.head.weight, network.model.head.weight)


# -- what is learned ------------------------------------------------------------------------------------------------


class Several(nn.Module):
    """A network whose output is no tensor of classes: a dict of a number and of a map."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        y = self.chain.blocks(self.chain.stem(x))
        return {"number": self.chain.head(y.mean((2, 3))), "map": y}


def test_no_pass_knows_that_outputs_are_classes(nets):
    model = Several(nets.Chain(*(nets.Residual() for _ in range(4)), classes=1))
    stages = [ad.Stage((f"chain.blocks.{i}",), (f"chain.blocks.{i + 1}",)) for i in (0, 2)]
    network = ad.adapt(model, stages, example=torch.randn(2, 3, 8, 8)).train()

    def criterion(output, target):
        return F.mse_loss(output["number"], target["number"]) + F.l1_loss(output["map"], target["map"])

    def distil(output, teacher):
        return F.mse_loss(output["map"], teacher["map"])

    schedule = ad.Schedule("SBR", delay=1, teacher_share=0.25)
    passes = ad.Passes(network, ad.tasks.OwnCriterion(criterion, distil), schedule)
    x = torch.randn(4, 3, 8, 8)
    y = {"number": torch.randn(4, 1), "map": torch.randn(4, 8, 8, 8)}
    list(passes(x, y))
    taught = passes._kept.get(0, x.device)["teacher"][0]
    losses = [float(loss.detach()) for loss in passes(x, y)]
    output = network(x, skip="TT")
    expected = 0.75 * criterion(output, y) + 0.25 * distil(output, taught)
    assert losses[1] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_share_of_the_teacher_is_taken_from_what_it_said_when_it_saw_the_batch(nets):
    network = nets.transformer().train()
    schedule = ad.Schedule("SB", delay=1, teacher_share=0.5, teacher_start=1)
    passes = ad.Passes(network, schedule=schedule)
    data, optimizer, said, losses = batches("transformer", 3), sgd(network), [], []
    for x, y in data:
        said.append(network(x).detach())
        for loss, skip in zip(passes(x, y), ("FF", "TT"), strict=False):
            answer = network(data[len(said) - 2][0], skip=skip)
            losses.append((skip, float(loss.detach()), answer))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    base = [(loss, output) for skip, loss, output in losses if skip == "TT"]
    labels = [F.cross_entropy(output, data[number][1]) for number, (_, output) in enumerate(base)]
    # Batch 0 came before the teacher's start, batch 1 after it.
    assert base[0][0] == pytest.approx(float(labels[0].detach()), rel=1e-5)
    taught = F.kl_div(F.log_softmax(base[1][1], 1), F.softmax(said[1], 1), reduction="batchmean")
    assert base[1][0] == pytest.approx(float((0.5 * labels[1] + 0.5 * taught).detach()), rel=1e-5)


# -- what can go wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["label", "nan", "shape"])
def test_an_error_in_any_pass_changes_nothing(kind, fault, nets, unchanged):
    network = getattr(nets, kind)().train()
    passes = ad.Passes(network, schedule=ad.Schedule("SRB", delay=0))
    x, y = batches(kind, 1)[0]
    if fault == "label":
        y = y + 3
    elif fault == "nan":
        x = x * float("nan")
    else:
        y = y[:2]
    for letter in "SRB":
        passes.load([(x, y)])
        while passes.waiting[0].letter != letter:
            passes.done()
        with unchanged(network), pytest.raises(ad.TrainingError, match=r"labels from|finite|2 labels for a batch of 4"):
            passes.learn(passes.items(passes.waiting[0])[0])


def test_one_stage_has_nothing_in_between(nets):
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    stages = [ad.Stage(("blocks.0", "blocks.1"), ("blocks.2", "blocks.3"))]
    network = ad.adapt(model, stages, example=torch.randn(2, 3, 8, 8))
    assert ad.Passes(network).schedule.pattern == "SB"
    ad.train(copy.deepcopy(network), batches("chain", 4), epochs=1)
    with pytest.raises(
        ad.TrainingError, match="a network of one stage has no intermediate sub-networks: expected 'SB'"
    ):
        ad.Passes(network, schedule=ad.Schedule("SBSBR"))
    with pytest.raises(
        ad.TrainingError, match="a network of one stage has no intermediate sub-networks: expected 'SB'"
    ):
        ad.train(network, batches("chain", 4), epochs=1, passes="SBR")


class Labels(ad.tasks.Classification):
    can_distil = False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schedule": "SB"}, r"schedule='SB': expected a Schedule, such as Schedule\('SBSBR', delay=16\)"),
        (
            {"task": nn.CrossEntropyLoss},
            r"CrossEntropyLoss is a class: expected an instance, CrossEntropyLoss\(...\)",
        ),
        ({"buffer_mb": 0}, "buffer_mb=0: expected megabytes, above 0"),
        (
            {"task": Labels(), "schedule": ad.Schedule("SB", teacher_share=0.5)},
            r"teacher_share=0.5 needs a loss between two outputs, but the task Labels has none: pass a task",
        ),
    ],
)
def test_bad_arguments(arguments, said, nets):
    with pytest.raises(ad.TrainingError, match=said):
        ad.Passes(nets.chain(), **arguments)
    with pytest.raises(ad.TrainingError, match="Passes received a Chain: expected an adapted network"):
        ad.Passes(nets.Chain(nets.Residual()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"delay": 4}, "delay=4 is not shorter than an epoch of 4 batches: expected less, or none"),
        ({"passes": "BS"}, "pattern='BS' begins with B"),
        ({"passes": "SS"}, "has only S"),
        ({"passes": "SXB"}, "unknown letter 'X'"),
        ({"alpha": 0.3}, "alpha=0.3 belongs to passes='algorithm 1', but passes is 'SBSBR': change one of them"),
        ({"low_memory": True}, "low_memory=True belongs to passes='algorithm 1'"),
        ({"passes": "algorithm 1", "delay": 3}, "delay=3 belongs to a pattern of passes, such as passes='SBSBR', but"),
        ({"intermediate": ("TFFF",)}, "is for 4 stages, but the network has 2"),
    ],
)
def test_a_recipe_that_does_not_fit(fields, said, nets, unchanged):
    network = nets.chain()
    with unchanged(network), pytest.raises(ad.AdaptiveDepthError, match=said):
        ad.train(network, batches("chain", 4), epochs=1, **fields)


def test_a_schedule_changed_on_resume(nets, tmp_path):
    data = batches("chain", 6)
    ad.train(nets.chain(), data, epochs=1, folder=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    for fields, said in (
        ({"passes": "SB"}, r"has another recipe \(passes: 'SBSBR' there, 'SB' now\)"),
        ({"delay": 1}, r"has another recipe \(delay: None there, 1 now\)"),
        ({"passes": "algorithm 1"}, r"has another recipe \(passes: 'SBSBR' there, 'algorithm 1' now\)"),
    ):
        with pytest.raises(ad.CheckpointError, match=said):
            ad.train(nets.chain(), data, epochs=1, folder=tmp_path, resume=True, **fields)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


class Stream:
    """Repeats no image, and ends inside a round: the third epoch has a batch less than it said."""

    def __init__(self):
        self.left = iter(batches("chain", 14))

    def __len__(self):
        return 5

    def __iter__(self):
        for _, batch in zip(range(5), self.left, strict=False):
            yield batch


def test_a_loader_that_ends_inside_a_round(nets):
    """It costs the passes of the batch that did not come, and no more."""
    told = []
    history = ad.train(nets.chain(), Stream(), epochs=3, delay=1, on_step=told.append)
    assert len(history.epochs) == 3
    assert told[-1].step == ad.Schedule(delay=1).steps(14)
    assert told[-1].steps == ad.Schedule(delay=1).steps(15)


def test_a_target_that_cannot_be_kept(nets, unchanged):
    network = nets.chain().train()
    passes = ad.Passes(network, lambda output, _: output.sum())
    with unchanged(network), pytest.raises(ad.TrainingError, match=r"a batch holds a object.*fresh=True"):
        next(passes(torch.zeros(2, 3, 8, 8), object()))
    fresh = ad.Passes(network, lambda output, _: output.sum(), ad.Schedule("SB", fresh=True))
    assert [len(list(fresh(torch.zeros(2, 3, 8, 8), object()))) for _ in range(3)] == [1, 1, 1]

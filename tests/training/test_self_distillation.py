"""Algorithm 1: losses by hand, gradients against the plain two-pass algorithm, and errors that change nothing."""

import copy
import pickle
import re
from collections import UserDict
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adaptive_depth as ad

Y = torch.tensor([0, 3, 1, 4])


def inputs(kind: str) -> Tensor:
    return torch.randn(4, 3, 32, 32) if kind == "resnet" else torch.randn(4, 3, 8, 8)


# -- the terms, by hand ---------------------------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0) -> float:
    """Mean over all but the last dimension of sum p log(p / q), times T squared, in float64."""
    p, q = softmax(teacher.astype(np.float64) / temperature), softmax(student.astype(np.float64) / temperature)
    return float((p * np.log(p / q)).sum(-1).mean() * temperature**2)


def test_two_classes_on_paper() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2) = 0.13081."""
    teacher, student = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert ad.distillation_loss(teacher, student).item() == pytest.approx(0.130812, abs=1e-6)
    assert ad.distillation_loss(student, teacher).item() == pytest.approx(0.143841, abs=1e-6)  # it is not symmetric
    # At T = 2: p = (sqrt 3, 1) / (sqrt 3 + 1) = (0.633975, 0.366025); KL = 0.0363408, times 4.
    assert ad.distillation_loss(teacher, student, 2.0).item() == pytest.approx(0.145363, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 1000)])
def test_the_distillation_loss(shape: tuple[int, ...], temperature: float) -> None:
    teacher, student = 3 * torch.randn(shape), 3 * torch.randn(shape)
    expected = kl(teacher.numpy(), student.numpy(), temperature)
    assert ad.distillation_loss(teacher, student, temperature).item() == pytest.approx(expected, rel=1e-5)
    half = ad.distillation_loss(teacher.bfloat16(), student.bfloat16(), temperature)
    assert half.dtype is torch.float32
    assert half.item() == pytest.approx(kl(teacher.bfloat16().float().numpy(), student.bfloat16().float().numpy(), temperature), rel=1e-4)  # fmt: skip # noqa: E501


def test_the_teacher_is_detached_and_the_gradient_is_q_minus_p() -> None:
    teacher, student = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    ad.distillation_loss(teacher, student, 2.0).backward()
    assert teacher.grad is None
    expected = 2.0 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 4  # T (q - p) / batch
    torch.testing.assert_close(student.grad, expected.detach())


def test_the_feature_term_is_over_channels_and_a_mean_over_positions() -> None:
    teacher, student = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    expected = kl(teacher.permute(0, 2, 3, 1).numpy(), student.permute(0, 2, 3, 1).numpy())
    assert ad.feature_loss(teacher, student).item() == pytest.approx(expected, rel=1e-5)
    tokens = ad.feature_loss(teacher.permute(0, 2, 3, 1), student.permute(0, 2, 3, 1), channel_dim=-1)
    assert tokens.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("kind", ["resnet", "transformer"])
@pytest.mark.parametrize(
    ("alpha", "temperature", "weight"), [(0.5, 1.0, 0.0), (0.3, 4.0, 0.1), (0, 1.0, 2.0), (1, 1.0, 0.0)]
)
def test_losses_of_a_network(nets, kind: str, form: str, alpha: float, temperature: float, weight: float) -> None:
    network = getattr(nets, kind)().eval()
    x = inputs(kind)
    base = "T" * len(network.stages)
    features: dict[tuple[str, str], Tensor] = {}
    handles = [
        network.model.get_submodule(path).register_forward_hook(lambda _m, _a, y, p=path: features.update({p: y}))
        for stage in network.stages
        for path in stage.blocks
    ]
    teacher = network(x).detach().numpy()
    taught = [features[stage.skippable[-1]] for stage in network.stages]
    student = network(x, skip=base).detach().numpy()
    learnt = [features[stage.mandatory[-1]] for stage in network.stages]
    for handle in handles:
        handle.remove()
    dim = network.stages[0].channel_dim

    super_net = -np.log(softmax(teacher.astype(np.float64))[range(4), Y.numpy()]).mean()
    base_net = kl(teacher, student, temperature)
    terms = [kl(a.detach().movedim(dim, -1).numpy(), b.detach().movedim(dim, -1).numpy()) for a, b in zip(taught, learnt, strict=True)]  # fmt: skip # noqa: E501
    total = alpha * super_net + (1 - alpha) * (base_net + weight * sum(terms))

    objective = ad.SelfDistillation(
        network, alpha=alpha, temperature=temperature, feature_weight=weight, keep_scale=False
    )
    losses = objective(x, Y) if form == "call" else objective.backward(x, Y)
    assert losses.super_net.item() == pytest.approx(super_net, rel=1e-5)
    assert losses.base_net.item() == pytest.approx(base_net, rel=1e-4)
    assert losses.total.item() == pytest.approx(total, rel=1e-4)
    if weight:
        assert losses.features.item() == pytest.approx(sum(terms), rel=1e-4)
        assert base_net != pytest.approx(sum(terms), rel=0.01)
    else:
        assert losses.features is None
    np.testing.assert_allclose(losses.super_output, teacher, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.base_output, student, rtol=1e-5, atol=1e-6)
    assert not losses.super_output.requires_grad
    assert not losses.base_output.requires_grad
    assert losses.total.requires_grad is (form == "call")


# -- gradients ------------------------------------------------------------------------------------------------------


def two_passes(
    network: ad.AdaptiveNetwork,
    x: Tensor,
    y: Tensor,
    alpha: float,
    temperature: float,
    weight: float,
    keep_scale: bool = False,
) -> None:
    """Algorithm 1 as the paper writes it, of plain PyTorch alone: two passes, two losses, their gradients added."""
    scale = 1 / alpha if keep_scale else 1.0
    watched: dict[str, Tensor] = {}
    base = "T" * len(network.stages)
    handles = [
        network.model.get_submodule(path).register_forward_hook(lambda _m, _a, out, p=path: watched.update({p: out}))
        for stage in network.stages
        for path in (stage.mandatory[-1], stage.skippable[-1])
    ]
    teacher = network(x)
    (scale * alpha * F.cross_entropy(teacher, y)).backward()
    taught = {path: feature.detach() for path, feature in watched.items()}
    student = network(x, skip=base)
    logs = [F.log_softmax(output / temperature, 1) for output in (teacher.detach(), student)]
    loss = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean() * temperature**2
    for stage in network.stages:
        a, b = taught[stage.skippable[-1]], watched[stage.mandatory[-1]]
        log_a, log_b = F.log_softmax(a, stage.channel_dim), F.log_softmax(b, stage.channel_dim)
        loss = loss + weight * (log_a.exp() * (log_a - log_b)).sum(stage.channel_dim).mean()
    (scale * (1 - alpha) * loss).backward()
    for handle in handles:
        handle.remove()


class NoNorms(nn.Module):
    """Stages without norms, each sub-path in a container of its own; what follows changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.must = nn.ModuleList([nn.Sequential(Bare()), nn.Sequential(Bare())])
        self.may = nn.ModuleList([nn.Sequential(Bare()), nn.Sequential(Bare())])
        self.between = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.may[0](self.must[0](self.stem(x))))
        return self.head(self.may[1](self.must[1](x)).mean((2, 3)))

    stages = tuple(ad.Stage((f"must.{i}.0",), (f"may.{i}.0",), norms=()) for i in (0, 1))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.tanh(x))


def make(kind: str, nets, randomised) -> ad.AdaptiveNetwork:
    if kind in ("in place", "in place after"):
        block = nets.InPlaceFirst if kind == "in place" else nets.InPlaceAfter
        model = nets.Chain(*(block() for _ in range(4)))
        return randomised(ad.adapt(model, nets.chain_stages(), example=inputs(kind)))
    if kind == "no norms":
        return ad.adapt(NoNorms(), NoNorms.stages, example=inputs(kind))
    return getattr(nets, kind)()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize(("alpha", "temperature", "weight"), [(0.5, 1.0, 0.0), (0.3, 3.0, 0.5)])
@pytest.mark.parametrize("kind", ["resnet", "transformer", "chain", "in place", "in place after", "no norms"])
def test_gradients_are_those_of_the_plain_algorithm(
    nets, randomised, kind: str, form: str, alpha: float, temperature: float, weight: float, training: bool
) -> None:
    network = make(kind, nets, randomised).train(training)
    plain = copy.deepcopy(network)
    objective = ad.SelfDistillation(
        network, alpha=alpha, temperature=temperature, feature_weight=weight, keep_scale=False
    )
    for _ in range(2):  # gradients add up, also from step to step
        x = inputs(kind)
        two_passes(plain, x, Y, alpha, temperature, weight)
        if form == "call":
            objective(x, Y).total.backward()
        else:
            objective.backward(x, Y)
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            torch.testing.assert_close(
                ours.grad, theirs.grad, rtol=1e-3, atol=2e-5 * max(theirs.grad.abs().max().item(), 1e-2), msg=name
            )
    shared = network.model.get_submodule("bn1") if kind == "resnet" else None
    for name, value in network.named_buffers():
        if shared is not None and name.startswith("model.bn1"):
            continue  # before the first stage: once a step here, twice in the plain algorithm
        torch.testing.assert_close(value, dict(plain.named_buffers())[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_base_net_sees_no_labels_and_teaches_nothing(nets) -> None:
    network = nets.resnet().train()
    x = inputs("resnet")
    ad.SelfDistillation(network, alpha=0.0)(x, Y).total.backward()
    assert not network.model.layer1[0].bn1.weight.grad.any()  # the super-net's norms: its output is a constant
    assert not network.model.layer1[1].conv1.weight.grad.any()
    first = network.skip_norms.get_submodule("layer1.0.bn1").weight.grad.clone()
    network.zero_grad()
    ad.SelfDistillation(network, alpha=0.0)(x, Y.flip(0)).total.backward()
    assert torch.equal(network.skip_norms.get_submodule("layer1.0.bn1").weight.grad, first)
    network.zero_grad()
    ad.SelfDistillation(network, alpha=1.0)(x, Y).total.backward()
    assert not network.skip_norms.get_submodule("layer1.0.bn1").weight.grad.any()
    assert network.model.layer1[1].conv1.weight.grad.any()


def test_a_scaler_may_differentiate(nets) -> None:
    network = nets.transformer().train()
    plain, x = copy.deepcopy(network), inputs("transformer")
    ad.SelfDistillation(plain).backward(x, Y)
    ad.SelfDistillation(network).backward(x, Y, lambda loss: (8 * loss).backward())
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, 8 * theirs.grad, rtol=1e-4, atol=1e-6)


def test_frozen_weights_stay_without_gradients(nets) -> None:
    for form in ("call", "backward"):
        network = nets.resnet().train()
        for module in (network.model.conv1, network.model.bn1, network.model.layer1, network.skip_norms.layer1):
            module.requires_grad_(False)
        objective, x = ad.SelfDistillation(network), inputs("resnet")
        objective(x, Y).total.backward() if form == "call" else objective.backward(x, Y)
        assert network.model.conv1.weight.grad is None
        assert network.model.layer1[0].conv1.weight.grad is None
        assert network.model.layer2[0].conv1.weight.grad.any()


# -- the user's own loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["call", "backward"])
def test_a_loop_of_the_users_own_learns(nets, form: str) -> None:
    """Which third of the image is bright: every sub-network trained by the two passes knows it afterwards."""
    network = nets.chain(classes=3).train()
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(96) % 3
    x = 0.3 * torch.randn(96, 3, 8, 8, generator=generator)
    x[torch.arange(96), y] += 1.0
    objective = ad.SelfDistillation(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        if form == "call":
            losses = objective(x, y)
            losses.total.backward()
        else:
            losses = objective.backward(x, y)
        optimizer.step()
        history.append(losses.super_net.item())
    assert history[-1] < 0.2 * history[0]
    accuracy = ad.evaluate(network, [(x, y)])
    assert accuracy["FF"] > 95
    assert accuracy["TT"] > 95


def test_training_forgets_statistics_per_context(nets) -> None:
    network = nets.resnet()
    x = inputs("resnet")
    ad.calibrate(network, [x])
    ad.SelfDistillation(network.eval())(x, Y)
    assert network.calibrated
    ad.SelfDistillation(network.train())(x, Y)
    assert not network.calibrated


def test_it_is_copied_and_pickled_with_its_network(nets) -> None:
    objective = ad.SelfDistillation(nets.resnet(), alpha=0.3)
    x = inputs("resnet")
    expected = objective.eval()(x, Y).total
    for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert again.network is not objective.network
        assert again._shared is None  # a cache, of twins of the other network
        assert torch.equal(again(x, Y).total, expected)
    assert objective.state_dict().keys() == {f"network.{name}" for name in objective.network.state_dict()}


# -- other criteria -------------------------------------------------------------------------------------------------


def test_float_targets_of_a_users_criterion(nets) -> None:
    network = nets.chain(classes=4).train()
    x, targets = inputs("chain"), torch.rand(4, 4)
    losses = ad.SelfDistillation(network, nn.BCEWithLogitsLoss())(x, targets)
    p = 1 / (1 + np.exp(-losses.super_output.numpy().astype(np.float64)))
    t = targets.numpy()
    assert losses.super_net.item() == pytest.approx(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(), rel=1e-5)
    losses.total.backward()


def test_two_classes_and_a_plain_function(nets) -> None:
    network = nets.chain(classes=2).train()
    x, y = inputs("chain"), torch.tensor([0, 1, 1, 0])
    losses = ad.SelfDistillation(network, F.cross_entropy)(x, y)
    assert losses.super_net.item() == pytest.approx(F.cross_entropy(losses.super_output, y).item(), rel=1e-6)
    assert losses.base_net > 0


def test_ignored_labels_and_probabilities(nets) -> None:
    network = nets.chain().eval()
    x = inputs("chain")
    some = torch.tensor([0, -100, 4, -100])
    losses = ad.SelfDistillation(network)(x, some)
    logits = losses.super_output
    assert losses.super_net.item() == pytest.approx(F.cross_entropy(logits[[0, 2]], some[[0, 2]]).item(), rel=1e-6)
    ad.SelfDistillation(network, nn.CrossEntropyLoss(ignore_index=7))(x, torch.tensor([0, 7, 4, 1]))
    probabilities = torch.full((4, 5), 0.2)
    assert ad.SelfDistillation(network)(x, probabilities).super_net > 0


# -- errors change nothing ------------------------------------------------------------------------------------------


class Tuples(nn.Module):
    def __init__(self, model: nn.Module, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.model(x))


def wrapped(nets, wrap: Callable[[Tensor], object]) -> ad.AdaptiveNetwork:
    stages = [
        ad.Stage([f"model.{p}" for p in s.mandatory], [f"model.{p}" for p in s.skippable]) for s in nets.chain_stages()
    ]
    return ad.adapt(Tuples(nets.chain().model, wrap), stages, example=inputs("chain"))


def broken_base(network: ad.AdaptiveNetwork) -> ad.AdaptiveNetwork:
    with torch.no_grad():
        network.skip_norms.get_submodule("blocks.2.norm").weight.fill_(float("inf"))
    return network


NAN = torch.full((4, 3, 8, 8), float("nan"))
ERRORS = {
    "label too high": (
        lambda nets: nets.chain(), None, torch.tensor([0, 1, 2, 5]), {},
        "labels from 0 to 5, but the network has 5 classes: expected labels from 0 to 4; build the model with "
        "num_classes=6 or map the labels",
    ),
    "negative label": (
        lambda nets: nets.chain(), None, torch.tensor([0, -1, 2, 3]), {}, "labels from -1 to 3, but the network has 5",
    ),
    "nll": (
        lambda nets: nets.chain(), None, torch.tensor([9, 1, 2, 3]), {"criterion": nn.NLLLoss()}, "labels from 1 to 9",
    ),
    "nan input": (
        lambda nets: nets.chain(), NAN, Y, {},
        "the super-net's loss is nan: expected a finite number; look for a learning rate that is too high, inputs or "
        "targets that are not finite, or float16 without a gradient scaler. This step changed no weight",
    ),
    "infinite criterion": (
        lambda nets: nets.chain(), None, Y,
        {"criterion": ad.tasks.Classification(lambda output, y: output.sum() * float("inf"))},
        "the super-net's loss is ",
    ),
    "tuple": (
        lambda nets: wrapped(nets, lambda y: (y,)), None, Y, {},
        "the network's output is a tuple: expected one tensor; logits [batch, classes, ...]; wrap the model so",
    ),
    "dict": (
        lambda nets: wrapped(nets, lambda y: {"scores": y}), None, Y, {}, "the network's output is a dict: expected",
    ),
    "one class": (
        lambda nets: nets.chain(classes=1), None, torch.zeros(4, dtype=torch.long), {},
        "the network returned [4, 1]: expected logits [batch, classes, ...] of two or more classes, because the",
    ),
    "no batch dimension": (
        lambda nets: wrapped(nets, lambda y: y[:, 0]), None, Y, {},
        "the network returned [4]: expected logits [batch, classes, ...] of two or more classes",
    ),
    "unreduced": (
        lambda nets: nets.chain(), None, Y, {"criterion": nn.CrossEntropyLoss(reduction="none")},
        "the criterion returned a tensor [4]: expected one number, as from nn.CrossEntropyLoss() (an instance, with "
        "reduction='mean')",
    ),
    "a float": (
        lambda nets: nets.chain(), None, Y, {"criterion": ad.tasks.Classification(lambda output, y: 1.0)},
        "the criterion returned a float: exp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("mode", ["train", "eval", "calibrated"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_changes_nothing(nets, unchanged, name: str, mode: str, form: str) -> None:
    build, x, y, options, said = ERRORS[name]
    network = build(nets)
    good = inputs("chain")
    if mode == "calibrated":
        ad.calibrate(network, [good])
    network.train(mode != "eval")
    for tree in (network.model, network.skip_norms):
        tree.get_submodule(f"{network.stages[0].mandatory[0]}.norm").eval()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    objective = ad.SelfDistillation(network, **options)
    with unchanged(network):
        for _ in range(2):  # the first step of an objective, and a later one
            with pytest.raises(ad.TrainingError, match=re.escape(said)):
                (objective if form == "call" else objective.backward)(good if x is None else x, y)
    assert network.calibrated is (mode == "calibrated")


def test_a_base_net_that_is_not_finite(nets, unchanged) -> None:
    network = broken_base(nets.chain()).train()
    objective = ad.SelfDistillation(network)
    with unchanged(network), pytest.raises(ad.TrainingError, match="the base-net's loss is nan: expected a finite"):
        objective(inputs("chain"), Y)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ad.TrainingError, match="the base-net's loss is nan: expected a finite"):
        objective.backward(inputs("chain"), Y)  # the super-net's gradients are in .grad already, as documented
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_model_that_fails_and_then_works(nets, unchanged) -> None:
    network = nets.chain().train()
    plain = copy.deepcopy(network)
    objective = ad.SelfDistillation(network)
    for form in (objective, objective.backward):
        with unchanged(network), pytest.raises(RuntimeError, match="expected input"):
            form(torch.zeros(4, 5, 8, 8), Y)
    x = inputs("chain")
    objective.backward(x, Y)
    two_passes(plain, x, Y, 0.5, 1.0, 0.0, keep_scale=True)
    torch.testing.assert_close(network.model.stem.weight.grad, plain.model.stem.weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.5}, "alpha=1.5: expected a weight from 0 (base-net only) to 1 (super-net only)"),
        ({"alpha": -0.1}, "alpha=-0.1: expected a weight"),
        ({"alpha": float("nan")}, "alpha=nan: expected a weight"),
        ({"temperature": 0}, "temperature=0: expected a number above 0, such as 1.0"),
        ({"temperature": float("nan")}, "temperature=nan: expected a number above 0"),
        ({"feature_weight": -1}, "feature_weight=-1: expected 0 (off) or more, such as 0.1"),
        ({"criterion": nn.CrossEntropyLoss}, "CrossEntropyLoss is a class: expected an instance, CrossEntropyLoss("),
        ({"criterion": "ce"}, "criterion='ce': expected a criterion such as nn.CrossEntropyLoss(), an inst"),
    ],
)
def test_options_are_checked_where_they_enter(nets, options: dict, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=re.escape(said)):
        ad.SelfDistillation(nets.chain(), **options)


def test_a_plain_model_is_adapted_first() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8))
    with pytest.raises(
        ad.TrainingError, match=r"SelfDistillation received a ResNet: expected an adapted network, adapt\(model\)"
    ):
        ad.SelfDistillation(model)


def test_dense_logits_are_distilled_over_their_classes() -> None:
    """[batch, classes, height, width]: the same as the pixels as a batch of their own."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Residual(4) for _ in range(2)))
    network = ad.adapt(model, [ad.Stage(("1",), ("2",))])
    x, y = torch.randn(2, 3, 5, 6), torch.randint(4, (2, 5, 6))
    losses = ad.SelfDistillation(network)(x, y)
    deep, shallow = (out.movedim(1, -1).reshape(-1, 4) for out in (losses.super_output, losses.base_output))
    expected = F.kl_div(shallow.log_softmax(1), deep.softmax(1), reduction="batchmean")
    torch.testing.assert_close(losses.base_net, expected)


def test_labels_out_of_range_with_a_function_for_a_criterion() -> None:
    network = ad.adapt(
        nn.Sequential(nn.Linear(3, 4), *(Residual(4, linear=True) for _ in range(2))), [ad.Stage(("1",), ("2",))]
    )
    with pytest.raises(ad.TrainingError, match="labels from 0 to 4, but the network has 4 classes"):
        ad.SelfDistillation(network, F.cross_entropy)(torch.randn(2, 3), torch.tensor([0, 4]))


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("target", ["numbers", "labels", "one output", "out of range", "classes last", "yes or no"])
def test_a_criterion_that_says_nothing_of_two_outputs_is_refused_unless_labels_are_learned(
    nets, unchanged, target: str, form: str
) -> None:
    """A softmax KL between outputs of which nothing is known would be wrong without a word."""

    def criterion(output: Tensor, y: Tensor) -> Tensor:
        return output.square().mean() + 0 * y.sum()

    classes = 1 if target == "one output" else 5
    network = nets.chain(classes=classes).train()
    if target == "classes last":  # [batch, 5, 5]: any of the two axes could be that of the classes
        network = wrapped(nets, lambda y: y[:, None].expand(-1, 5, -1)).train()
    y = {
        "numbers": torch.rand(4),
        "labels": torch.rand(4, 5),
        "one output": torch.zeros(4, dtype=torch.long),
        "out of range": torch.tensor([0, 1, 2, 5]),
        "classes last": torch.zeros(4, 5, dtype=torch.long),
        "yes or no": torch.ones(4, dtype=torch.bool),
    }[target]
    objective = ad.SelfDistillation(network, criterion)
    said = (
        r"the criterion criterion does not cover two outputs, and an output \[4.* of float32 with a target \[4.* could "
    )
    said += r"be several tasks: name the task, one of Classification, .*Heads.*Classification\(criterion\).*learn_from="
    with unchanged(network), pytest.raises(ad.TrainingError, match=said):
        (objective if form == "call" else objective.backward)(inputs("chain"), y)
    losses = ad.SelfDistillation(network, criterion, learn_from="labels")(inputs("chain"), y)
    assert torch.isfinite(losses.base_net)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_plain_function_of_class_indices_is_a_classification(nets, dense: bool, form: str) -> None:
    """The first batch says so: what the base-net learns, at a temperature, is what it learns with the task named."""

    def criterion(output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, y, label_smoothing=0.2)

    if dense:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Residual(4) for _ in range(2)))
        network, y = ad.adapt(model, [ad.Stage(("1",), ("2",))], example=inputs("chain")), torch.randint(4, (4, 8, 8))
        y[0, 0, 0] = -100
    else:
        network, y = nets.chain(), torch.tensor([0, -100, 1, 4])
    named = copy.deepcopy(network)
    known = ad.tasks.Classification(criterion)
    for _ in range(2):
        x = inputs("chain")
        results = []
        for net, task in ((network, criterion), (named, known)):
            objective = ad.SelfDistillation(net.train(), task, temperature=2.0)
            results.append((objective if form == "call" else objective.backward)(x, y))
            if form == "call":
                results[-1].total.backward()
        assert torch.equal(results[0].base_net, results[1].base_net)
        assert torch.equal(results[0].super_net, results[1].super_net)
    for ours, theirs in zip(network.parameters(), named.parameters(), strict=True):
        assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad)


def test_labels_of_a_later_batch_are_checked_as_those_of_the_task(nets) -> None:
    objective = ad.SelfDistillation(nets.chain().train(), lambda output, y: F.cross_entropy(output, y.clamp(0)))
    objective(inputs("chain"), Y)
    with pytest.raises(ad.TrainingError, match="labels from -1 to 3, but the network has 5 classes"):
        objective(inputs("chain"), torch.tensor([0, -1, 2, 3]))


class Residual(nn.Module):
    def __init__(self, width: int, *, linear: bool = False) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def test_labels_that_are_no_whole_numbers_are_refused_and_nothing_changes(nets, unchanged):
    network = nets.chain().train()
    x = torch.randn(2, 3, 8, 8)
    with (
        unchanged(network),
        pytest.raises(ad.TrainingError, match=r"labels of float32: expected class indices.*y.long"),
    ):
        ad.SelfDistillation(network)(x, torch.tensor([0.0, 1.0]))


def test_losses_print_as_numbers():
    losses = ad.Losses(
        torch.tensor(1.5), torch.tensor(2.0), torch.tensor(1.0), None, torch.zeros(2, 5), torch.zeros(2, 5)
    )
    assert str(losses) == "Losses(total=1.5, super_net=2, base_net=1)"


# -- the method's variants ----------------------------------------------------------------------------------------


def test_without_distillation_the_base_net_learns_from_the_labels(nets):
    network = nets.chain().eval()
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for form in ("call", "backward"):
        objective = ad.SelfDistillation(network, learn_from="labels")
        losses = objective(x, y) if form == "call" else objective.backward(x, y)
        expected = F.cross_entropy(network(x, skip="TT"), y)
        assert losses.base_net.item() == pytest.approx(expected.item(), rel=1e-6)
        assert losses.super_net.item() == pytest.approx(F.cross_entropy(network(x), y).item(), rel=1e-6)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize(
    ("teacher", "student"), [("random", "base-net"), ("super-net", "random"), ("random", "random")]
)
def test_random_teachers_and_students_of_the_papers_table_4(teacher, student, form, nets):
    network = nets.resnet().eval()
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    outputs = {skip: network(x, skip=skip).detach() for skip in network.skips}
    objective = ad.SelfDistillation(network, teacher=teacher, student=student)
    seen = set()
    for _ in range(12):
        network.zero_grad()
        losses = objective(x, y) if form == "call" else objective.backward(x, y)
        pair = [
            next(skip for skip, output in outputs.items() if torch.allclose(output, found, atol=1e-5))
            for found in (losses.super_output, losses.base_output)
        ]
        deep, shallow = (outputs[skip] for skip in pair)
        assert losses.super_net.item() == pytest.approx(F.cross_entropy(deep, y).item(), rel=1e-4)
        assert losses.base_net.item() == pytest.approx(ad.distillation_loss(deep, shallow).item(), rel=1e-3, abs=1e-6)
        assert teacher == "random" or pair[0] == "FFFF"
        assert student == "random" or pair[1] == "TTTT"
        assert pair[0] != pair[1]
        seen.add(tuple(pair))
        if form == "call":
            losses.total.backward()
    assert len(seen) > 3


def test_a_variant_that_does_not_exist(nets):
    network = nets.chain()
    for name in ("learn_from", "teacher", "student"):
        with pytest.raises(ad.TrainingError, match=f"{name}='all': expected '"):
            ad.SelfDistillation(network, **{name: "all"})
    with pytest.raises(ad.TrainingError, match="the feature term compares super-net and base-net"):
        ad.SelfDistillation(network, teacher="random", feature_weight=0.1)
    for share in (0, -0.5, 1.1, float("nan")):
        with pytest.raises(
            ad.TrainingError, match=r"distil_share=.*: expected a fraction of each batch, such as 0.5, or 1"
        ):
            ad.SelfDistillation(network, distil_share=share)


# -- other ways to the same gradients -------------------------------------------------------------------------------

AOT = {"backend": "aot_eager"}  # traces and differentiates as the default does, and compiles no C++


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("way", ["compiled", "recomputed", "both"])
@pytest.mark.parametrize("kind", ["resnet", "transformer", "chain"])
def test_compiled_and_recomputed_passes_have_the_same_gradients(nets, randomised, kind, way, form) -> None:
    network = make(kind, nets, randomised).double().train()
    plain = copy.deepcopy(network)
    objective = ad.SelfDistillation(network, alpha=0.3, temperature=2.0)
    if way != "compiled":
        network.set_grad_checkpointing()
    if way != "recomputed":
        objective.compile(**AOT)
    for _ in range(2):
        x = inputs(kind).double()
        two_passes(plain, x, Y, 0.3, 2.0, 0.0, keep_scale=True)
        if form == "call":
            objective(x, Y).total.backward()
        else:
            objective.backward(x, Y)
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=name)
    for name, value in network.named_buffers():  # running statistics are gathered once, though blocks run twice
        torch.testing.assert_close(value, dict(plain.named_buffers())[name], rtol=1e-9, atol=1e-11, msg=name)


def test_recomputed_blocks_keep_less_and_pass_the_feature_term(nets) -> None:
    """Each block keeps its input alone: fewer numbers wait for the backward pass."""

    def kept(recomputed: bool, weight: float) -> tuple[int, Tensor]:
        network = nets.transformer().train()
        network.set_grad_checkpointing(recomputed)
        objective, kept = ad.SelfDistillation(network, feature_weight=weight), {}
        x = inputs("chain")
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.update({tensor.data_ptr(): tensor}) or tensor, lambda tensor: tensor
        ):
            losses = objective(x, Y)
        losses.total.backward()
        return sum(tensor.numel() for tensor in kept.values()), losses.features

    (all_of_it, _), (less, _) = kept(False, 0.0), kept(True, 0.0)
    assert less < 0.7 * all_of_it
    torch.manual_seed(1)
    expected = kept(False, 0.1)[1]
    torch.manual_seed(1)
    torch.testing.assert_close(kept(True, 0.1)[1], expected)


def test_a_block_that_changes_its_input_is_not_recomputed(nets, randomised, unchanged) -> None:
    network = make("in place after", nets, randomised).train()
    network.set_grad_checkpointing()
    with unchanged(network), pytest.raises(ad.StagesError, match="a InPlaceAfter changes its input in place, so it"):
        ad.SelfDistillation(network)(inputs("chain"), Y)


def test_recomputing_is_switched_off_again(nets) -> None:
    network = nets.resnet().train()
    before = {name: dict(module.__dict__) for name, module in network.model.named_modules()}
    network.set_grad_checkpointing()
    network.set_grad_checkpointing()  # twice is once
    assert network.grad_checkpointing
    again = pickle.loads(pickle.dumps(network))
    copied = copy.deepcopy(network)
    x = inputs("resnet")
    with torch.no_grad():
        for other in (again, copied):
            for skip in ("FFFF", "TTFF"):
                assert torch.equal(other.eval()(x, skip=skip), network.eval()(x, skip=skip))
    assert all("forward" not in part.__dict__ for part in network.extract("TTFF").modules())
    network.train()
    network.set_grad_checkpointing(False)
    assert not network.grad_checkpointing
    assert {name: dict(module.__dict__) for name, module in network.model.named_modules()}.keys() == before.keys()
    for name, module in network.model.named_modules():
        assert module.__dict__.keys() == before[name].keys(), name


def test_a_models_own_recomputation(nets) -> None:
    """timm's switch on the model itself: the passes then share nothing, and the gradients are the same."""
    model = timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16))
    network = ad.adapt(model).double().train()
    plain = copy.deepcopy(network)
    model.set_grad_checkpointing(True)
    objective = ad.SelfDistillation(network)
    x = inputs("resnet").double()
    objective(x, Y).total.backward()
    two_passes(plain, x, Y, 0.5, 1.0, 0.0, keep_scale=True)
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=name)


def test_the_feature_term_is_not_compiled(nets) -> None:
    with pytest.raises(ad.TrainingError, match="the feature term looks inside the passes: leave it out"):
        ad.SelfDistillation(nets.chain(), feature_weight=0.1).compile()


def test_a_compiled_objective_follows_its_network(nets) -> None:
    network = nets.chain().double().train()
    objective = ad.SelfDistillation(network)
    objective.compile(**AOT)
    x = inputs("chain").double()
    objective(x, Y)
    ad.calibrate(network, [x])
    network.train()
    losses = objective(x, Y)  # forgets the statistics per context, and with them the sub-networks that were compiled
    assert not network.calibrated
    with torch.no_grad():
        assert losses.super_output.allclose(network(x))
    other = pickle.loads(pickle.dumps(objective))
    assert other(x, Y).super_output.allclose(losses.super_output)


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("options", [{}, {"learn_from": "labels"}, {"feature_weight": 0.3}, {"compile": True}])
def test_the_base_net_may_see_a_part_of_each_batch(nets, options, form) -> None:
    network = nets.resnet().double().eval()
    x = inputs("resnet").double()
    compiled, options = options.get("compile"), {k: v for k, v in options.items() if k != "compile"}
    objective = ad.SelfDistillation(network, distil_share=0.6, **options)
    if compiled:
        objective.compile(**AOT)
    losses = objective(x, Y) if form == "call" else objective.backward(x, Y)
    assert losses.super_output.shape == (4, 5)
    assert losses.base_output.shape == (2, 5)
    few = ad.SelfDistillation(network, **options)(x[:2], Y[:2])  # in eval mode, samples do not see each other
    assert losses.super_net.item() == pytest.approx(F.cross_entropy(network(x), Y).item())
    assert losses.base_net.item() == pytest.approx(few.base_net.item())
    assert losses.base_output.allclose(few.base_output)
    if options.get("feature_weight"):
        assert losses.features.item() == pytest.approx(few.features.item())


def test_a_part_of_a_batch_is_two_samples_at_least(nets) -> None:
    objective = ad.SelfDistillation(nets.chain().train(), distil_share=0.01)
    assert objective(inputs("chain"), Y).base_output.shape == (2, 5)  # BatchNorm cannot learn from one
    assert objective(inputs("chain")[:3], Y[:3]).base_output.shape == (2, 5)


# -- variants of the network ----------------------------------------------------------------------------------------


def test_stochastic_depth_stays_in_skippable_sub_paths(nets) -> None:
    """Of the paths that are dropped at random, those of mandatory blocks are not: the base-net is sure of itself."""
    small = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 4, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.9, **small)
    objective = ad.SelfDistillation(ad.adapt(model, group_size=2).train())
    x = inputs("resnet")
    seen = [objective(x, Y) for _ in range(4)]
    assert len({losses.base_output.numpy().tobytes() for losses in seen}) == 1
    assert len({losses.super_output.numpy().tobytes() for losses in seen}) > 1


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_without_skip_aware_norms_there_is_one_set(name) -> None:
    model = timm.create_model(name, num_classes=5)
    network = ad.adapt(model, skip_aware=False)
    assert [parameter for parameter, _ in network.skip_norms.named_parameters()] == []
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())
    assert [stage.blocks for stage in network.stages] == [stage.blocks for stage in ad.find_stages(model)]
    with pytest.raises(ad.StagesError, match="leave out within, mandatory, group_size, skip_aware, cut"):
        ad.adapt(timm.create_model(name), network.stages, skip_aware=False)


# -- inputs of several arguments ------------------------------------------------------------------------------------


class Named(nn.Module):
    """A chain that takes its image by name, scaled, and returns an object, as networks of Hugging Face do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.inner(pixel_values if scale is None else pixel_values * scale[:, None, None, None])}


@pytest.mark.parametrize("form", ["call", "backward"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_inputs_by_name_and_by_position(nets, form, share) -> None:
    plain = nets.chain()
    stages = [
        ad.Stage([f"inner.{p}" for p in stage.mandatory], [f"inner.{p}" for p in stage.skippable])
        for stage in plain.stages
    ]
    x, scale = inputs("chain"), torch.tensor([1.0, 2.0, 0.5, 1.5])
    alone = ad.SelfDistillation(ad.adapt(copy.deepcopy(plain.model), nets.chain_stages()).train(), distil_share=share)
    expected = alone(x * scale[:, None, None, None], Y)
    for given in ({"pixel_values": x, "scale": scale}, (x, scale), [x, scale]):
        network = ad.adapt(Named(copy.deepcopy(plain.model)), stages).train()
        objective = ad.SelfDistillation(network, distil_share=share)
        losses = objective(given, Y) if form == "call" else objective.backward(given, Y)
        for name in ("total", "super_net", "base_net"):
            assert getattr(losses, name).item() == pytest.approx(getattr(expected, name).item(), rel=1e-5)
        batches = [(given, Y)]
        batches += [{**given, "labels": Y}] if isinstance(given, dict) else []
        for batch in batches:
            assert ad.train(network, [batch], epochs=1, lr=0.01).epochs[0].loss > 0
            assert ad.calibrate(network, [batch]) == 1
            assert set(ad.evaluate(network, [batch])) == set(network.skips)


def test_what_tokenizers_return_is_a_dict_too(nets) -> None:
    stages = [
        ad.Stage([f"inner.{p}" for p in s.mandatory], [f"inner.{p}" for p in s.skippable]) for s in nets.chain_stages()
    ]
    x = inputs("chain")
    network = ad.adapt(Named(nets.chain().model), stages).eval()
    for share in (1.0, 0.5):
        objective = ad.SelfDistillation(network, distil_share=share)
        expected = objective({"pixel_values": x}, Y)
        for form in (objective, objective.backward):
            losses = form(UserDict(pixel_values=x), Y)
            assert losses.total.item() == pytest.approx(expected.total.item())


def test_in_inference_mode_there_are_losses_without_graphs(nets) -> None:
    network = nets.resnet().eval()
    objective = ad.SelfDistillation(network)
    x = inputs("resnet")
    expected = objective(x, Y)
    with torch.inference_mode():
        for given in (x, x.clone()):  # the second one is a tensor of that mode
            losses = objective(given, Y)
            assert not losses.total.requires_grad
            assert losses.total.item() == pytest.approx(expected.total.item())

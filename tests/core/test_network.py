"""The network: the super-net is the original, bit for bit; what runs at another depth; copies without a trace."""

import copy
import io
import pickle
import re
import zlib

import numpy
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import adaptive_depth as ad


def timm_resnet() -> nn.Module:
    return timm.create_model("resnet26", num_classes=5, channels=(8, 8, 16, 16))


def torchvision_resnet() -> nn.Module:
    return ResNet(Bottleneck, [2, 2, 3, 2], num_classes=5, width_per_group=4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["timm", "torchvision", "transformer", "chain"])
def test_the_super_net_is_the_original_bit_for_bit(nets, randomised, kind: str, training: bool) -> None:
    if kind in ("timm", "torchvision"):
        original = randomised(timm_resnet() if kind == "timm" else torchvision_resnet())
        stages = None
    else:
        made = nets.transformer() if kind == "transformer" else nets.chain()
        original, stages = made.model, made.stages
    original.train(training)
    adapted = copy.deepcopy(original)
    network = ad.adapt(adapted, stages)
    assert network.model is adapted
    assert network.training is training
    x = torch.randn(4, 3, 8, 8) if stages else torch.randn(4, 3, 32, 32)
    y = torch.arange(4)
    for skip in (None, "F" * len(network.stages)):
        original.zero_grad()
        network.zero_grad()
        expected, output = original(x), network(x, skip=skip)
        assert torch.equal(output, expected)
        nn.functional.cross_entropy(expected, y).backward()
        nn.functional.cross_entropy(output, y).backward()
        for (name, theirs), ours in zip(original.named_parameters(), network.model.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad), name
        for (name, theirs), ours in zip(original.named_buffers(), network.model.buffers(), strict=True):
            assert torch.equal(ours, theirs), name
    assert all(parameter.grad is None for parameter in network.skip_norms.parameters())


def ran(network: ad.AdaptiveNetwork, skip: str, x: Tensor) -> dict[str, int]:
    """How often each block ran."""
    counts = {path: 0 for stage in network.stages for path in stage.blocks}
    handles = []
    for path in counts:

        def count(*_: object, path: str = path) -> None:
            counts[path] += 1

        handles.append(network.model.get_submodule(path).register_forward_hook(count))
    network(x, skip=skip)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_a_skipped_block_does_not_run(nets, kind: str) -> None:
    network = getattr(nets, kind)().eval()
    x = torch.randn(1, 3, 8, 8) if kind == "transformer" else torch.randn(1, 3, 32, 32)
    for skip in network.skips:
        network.subnet(skip)  # hooks that are set after a view was made count, too
        expected = {}
        for stage, flag in zip(network.stages, skip, strict=True):
            expected |= dict.fromkeys(stage.mandatory, 1) | dict.fromkeys(stage.skippable, int(flag == "F"))
        assert ran(network, skip, x) == expected


def test_which_set_of_norms_runs(nets) -> None:
    """The network written out by hand: set F of a stage's norms when it runs in full, set T when it is cut."""
    network = nets.chain().eval()
    model, x = network.model, torch.randn(2, 3, 8, 8)
    for skip in network.skips:
        h = model.stem(x)
        for stage, flag in enumerate(skip):
            block = model.blocks[2 * stage]
            name = f"blocks.{2 * stage}.norm"
            norm = block.norm if flag == "F" else network.skip_norms.get_submodule(name)
            h = h + block.conv(torch.relu(norm(h)))
            h = model.blocks[2 * stage + 1](h) if flag == "F" else h
        assert torch.equal(network(x, skip=skip), model.head(h.mean((2, 3))))


def test_the_second_set_starts_as_a_copy_of_the_first(randomised) -> None:
    model = randomised(timm_resnet())
    network = ad.adapt(model)
    norms = [path for stage in network.stages for path in stage.norms]
    assert len(norms) == 12
    for path in norms:
        first, second = model.get_submodule(path), network.skip_norms.get_submodule(path)
        assert second is not first
        assert second.weight is not first.weight
        assert second.state_dict().keys() == first.state_dict().keys()
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_running_statistics_of_super_net_and_base_net_do_not_mix(nets) -> None:
    """Two passes in training mode: each set moves by its own pass alone; so do the norms on the shortcuts."""
    network = nets.resnet().train()
    norms = [
        path
        for path, module in network.model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and path.startswith("layer")
    ]
    shortcuts = [path for path in norms if "downsample" in path]
    assert len(shortcuts) == 4  # 64 to 8 channels, too
    x = torch.randn(4, 3, 32, 32)

    def read(tree: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in tree.named_buffers() if name.startswith("layer")}

    first, second = read(network.model), read(network.skip_norms)
    network(x)
    moved = read(network.model)
    assert all(not torch.equal(moved[name], first[name]) for name in first)
    assert all(torch.equal(value, second[name]) for name, value in read(network.skip_norms).items())
    network(x, skip="TTTT")
    assert all(torch.equal(value, moved[name]) for name, value in read(network.model).items())
    after = read(network.skip_norms)
    assert {name.rpartition(".")[0] for name in after} >= set(shortcuts)
    assert all(not torch.equal(after[name], second[name]) for name in second)


def test_a_shortcuts_norm_shares_its_affine_part(nets) -> None:
    network = nets.resnet()
    base = network.subnet("TTTT")
    for layer in ("layer1", "layer2"):
        path = f"{layer}.0.downsample.1"
        own, shared = base.get_submodule(path), network.model.get_submodule(path)
        assert own.weight is shared.weight
        assert own.running_mean is not shared.running_mean
    assert base.bn1 is network.model.bn1  # before the first stage: every sub-network sees the same
    assert sum(p.numel() for p in network.skip_norms.parameters()) == 2 * 2 * (8 + 8 + 16 + 16)


def test_a_sub_network_shares_every_tensor(nets) -> None:
    network = nets.resnet()
    known = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    for skip in network.skips:
        subnet = network.subnet(skip)
        assert type(subnet) is type(network.model)
        assert {id(tensor) for tensor in (*subnet.parameters(), *subnet.buffers())} <= known
        assert network.subnet(skip) is subnet


def test_gradients_of_all_depths_gather_in_the_shared_weights(nets) -> None:
    network = nets.chain()
    x = torch.randn(2, 3, 8, 8)
    stem = network.model.stem.weight
    apart = [torch.autograd.grad(network(x, skip=skip).sum(), stem)[0] for skip in network.skips]
    for skip in network.skips:
        network(x, skip=skip).sum().backward()
    torch.testing.assert_close(stem.grad, sum(apart))


# -- adapting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_every_module_keeps_the_mode_that_it_is_in(training: bool) -> None:
    model = timm_resnet().train(training)
    model.bn1.train(not training)
    model.layer1[0].bn1.train(not training)
    before = {name: module.training for name, module in model.named_modules()}
    network = ad.adapt(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert network.training is training
    base = network.subnet("TTTT")
    assert base.layer1[0].bn1.training is not training
    assert base.layer1[0].bn2.training is training


def test_adapting_draws_no_random_numbers(randomised) -> None:
    model = timm_resnet()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    ad.adapt(model)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet50", "adapt received a str: expected an nn.Module, or create_model('resnet50')"),
        (None, "adapt received a NoneType: expected an nn.Module"),
        (nn.Identity, "Identity is a class: expected an instance, Identity(...)"),
    ],
)
def test_what_is_no_model(model: object, said: str) -> None:
    with pytest.raises(ad.StagesError, match=re.escape(said)):
        ad.adapt(model)


def test_a_network_is_not_adapted_twice(nets, unchanged) -> None:
    network = nets.chain()
    with (
        unchanged(network),
        pytest.raises(ad.StagesError, match=r"received an adapted network: adapt its plain model, network\.mo"),
    ):
        ad.adapt(network)


def test_stages_in_other_containers(nets) -> None:
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    for wrong in (3, nets.chain_stages()[0]):
        with pytest.raises(ad.StagesError, match=r"expected a list, \[Stage\(\.\.\.\), \.\.\.\]"):
            ad.adapt(model, wrong)
    stages = ad.Stages(nets.chain_stages())
    assert ad.adapt(model, tuple(stages)).stages == ad.adapt(model, stages).stages == ad.adapt(model, [*stages]).stages


def test_stochastic_depth_is_off_in_mandatory_blocks_only() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8), drop_path_rate=0.5)
    rates = {name: module.drop_prob for name, module in model.named_modules() if type(module).__name__ == "DropPath"}
    assert sum(rate > 0 for rate in rates.values()) == 7  # from 0 to 0.5 in 8 blocks
    network = ad.adapt(model)
    mandatory = tuple(path for stage in network.stages for path in stage.mandatory)
    for name, rate in rates.items():
        expected = 0.0 if name.startswith(mandatory) else rate
        assert model.get_submodule(name).drop_prob == expected
    assert any(rate and not name.startswith(mandatory) for name, rate in rates.items())


def test_torchvisions_stochastic_depth(nets) -> None:
    class Dropped(nets.Residual):
        def __init__(self) -> None:
            super().__init__()
            self.drop = torchvision.ops.StochasticDepth(0.5, "row")

        def forward(self, x: Tensor) -> Tensor:
            return x + self.drop(self.conv(x))

    model = nets.Chain(Dropped(), Dropped())
    ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",), norms=())])
    assert (model.blocks[0].drop.p, model.blocks[1].drop.p) == (0.0, 0.5)


def test_it_prints_its_stages(nets) -> None:
    network = nets.chain()
    assert repr(network).startswith("AdaptiveNetwork of Chain, 4 sub-networks\nstage ")
    ad.calibrate(network, [torch.randn(2, 3, 8, 8)])
    assert "4 sub-networks, calibrated" in repr(network)


# -- extracting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_extracted_sub_network_is_independent_and_plain(nets, calibrated: bool) -> None:
    network = nets.resnet().eval()
    x = torch.randn(2, 3, 32, 32)
    if calibrated:
        ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    for skip in ("FFFF", "TFTF", "TTTT"):
        expected = network(x, skip=skip)
        alone = network.extract(skip)
        assert type(alone) is type(network.model)
        assert torch.equal(alone(x), expected)
        mine = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers()) if tensor.numel()}
        assert not mine & {tensor.data_ptr() for tensor in (*alone.parameters(), *alone.buffers())}
        for module in alone.modules():
            assert not type(module).__module__.startswith("adaptive_depth")
            for name, value in module.__dict__.items():
                assert "adaptive_depth" not in str(getattr(type(value), "__module__", "")), name
                assert "adaptive_depth" not in str(getattr(value, "__module__", "")), name
            assert "forward" not in module.__dict__
        assert b"adaptive_depth" not in pickle.dumps(alone)
        file = io.BytesIO()
        torch.save(alone, file)
        assert b"adaptive_depth" not in file.getvalue()
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter.zero_()
        assert torch.equal(network(x, skip=skip), expected)


@pytest.mark.parametrize("training", [True, False])
def test_it_keeps_modes_and_carries_no_gradients(nets, training: bool) -> None:
    network = nets.resnet().train(training)
    network.model.bn1.eval()
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    network.model.fc.requires_grad_(False)
    alone = network.extract("TTTT")
    assert alone.training is training
    assert not alone.bn1.training
    assert alone.layer1[0].bn1.training is training
    assert all(parameter.grad is None for parameter in alone.parameters())
    assert not alone.fc.weight.requires_grad
    assert alone.conv1.weight.requires_grad


def test_a_forward_that_the_user_gave_to_the_model_survives(nets) -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8), num_classes=5).eval()
    model.forward = model.forward_features.__get__(model)
    network = ad.adapt(model)
    x = torch.randn(1, 3, 32, 32)
    for skip in ("FFFF", "TTTT"):
        assert network(x, skip=skip).shape == (1, 8, 1, 1)
        assert torch.equal(network.extract(skip)(x), network(x, skip=skip))


@pytest.mark.parametrize(
    ("block", "blocks", "base"),
    [(BasicBlock, [2, 2, 2, 2], [1, 1, 1, 1]), (Bottleneck, [3, 4, 6, 3], [2, 2, 3, 2])],
)
def test_the_base_net_loads_into_torchvisions_own_class(randomised, block: type, blocks: list, base: list) -> None:
    """A plain network of that depth, built by torchvision: ResNet-50 cut to 2, 2, 3 and 2 blocks."""
    narrow = {"width_per_group": 4} if block is Bottleneck else {}
    network = randomised(ad.adapt(ResNet(block, blocks, num_classes=5, **narrow))).eval()
    plain = ResNet(block, base, num_classes=5, **narrow).eval()
    alone = network.extract("TTTT")
    plain.load_state_dict(alone.state_dict())  # strict
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(x), network(x, skip="TTTT"))
    left_out = [path for path, part in alone.named_modules() if isinstance(part, torch.nn.Identity)]
    assert left_out == [path for stage in network.stages for path in stage.skippable]
    mixed = ResNet(block, [base[0], blocks[1], base[2], blocks[3]], num_classes=5, **narrow).eval()
    mixed.load_state_dict(network.extract("TFTF").state_dict())
    assert torch.equal(mixed(x), network(x, skip="TFTF"))


# -- the authors' own network ---------------------------------------------------------------------------------------

# From the outputs of the authors' ResNet-50 (shared/golden): the first logits for weights that follow from their names.
GOLDEN = {
    "FFFF": [1.371732, -2.653875, -2.118593, 1.363076, 1.842108, -1.674049, -3.816278, 1.237764],
    "FTTF": [0.912776, -1.165632, -1.0922, 1.383971, 1.943458, -1.03543, -2.59863, 1.19544],
    "TTTT": [0.863277, -0.940152, -0.910326, 1.294139, 1.753006, -0.289724, -2.094512, 1.220752],
}


@pytest.mark.slow
def test_resnet50_computes_what_the_authors_does() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    network = ad.adapt(model.to_empty(device="cpu")).eval()
    state = {}
    for ours, tensor in network.state_dict().items():
        tree, _, path = ours.partition(".")
        parent, _, leaf = path.rpartition(".")
        name = f"{parent}_skip.{leaf}" if tree == "skip_norms" and "downsample" not in path else path
        state[ours] = golden_value(name, tuple(tensor.shape)) if tensor.is_floating_point() else tensor.zero_()
    network.load_state_dict(state)
    x = numpy.random.Generator(numpy.random.PCG64(0)).standard_normal((1, 3, 224, 224), dtype=numpy.float32)
    for skip, expected in GOLDEN.items():
        with torch.inference_mode():
            logits = network(torch.from_numpy(x), skip=skip)[0, :8]
        torch.testing.assert_close(logits, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def golden_value(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode())))
    z = generator.standard_normal(shape, dtype=numpy.float32)
    if len(shape) > 1:
        return torch.from_numpy(z * numpy.float32(numpy.prod(shape[1:]) ** -0.5))
    if name.endswith("running_var"):
        return torch.from_numpy(abs(z) * numpy.float32(0.1) + 1)
    offset = 1 if name.endswith(".weight") else 0
    return torch.from_numpy(z * numpy.float32(0.1) + numpy.float32(offset))


def test_loading_a_part_of_the_state_keeps_the_calibration(nets):
    network = nets.chain()
    ad.calibrate(network, [torch.randn(4, 3, 8, 8)])
    before = {name: tensor.clone() for name, tensor in network.statistics.state_dict().items()}
    head = {"model.head.weight": torch.zeros(5, 8), "model.head.bias": torch.zeros(5)}
    network.load_state_dict(head, strict=False)
    assert network.calibrated
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.statistics.state_dict().items())
    assert torch.equal(network.model.head.weight, torch.zeros(5, 8))


def test_the_fingerprint_is_of_the_architecture_and_the_cut_not_of_the_weights(nets):
    network, same = nets.resnet(), nets.resnet().half()
    assert same.fingerprint == network.fingerprint
    assert len(network.fingerprint) == 16
    cut = [ad.adapt(timm.create_model("resnet50"), mandatory=mandatory).fingerprint for mandatory in (1, 2)]
    others = {nets.resnet(classes=7).fingerprint, nets.transformer().fingerprint, *cut}
    assert len({network.fingerprint, *others}) == 5

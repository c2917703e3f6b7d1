import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import nn

from adaptive_depth import AdaptiveDepthError, SkipError, Stage, Stages, adapt, stopwatch
from adaptive_depth.choose.costs import Profile, macs_unit
from adaptive_depth.deploy.session import open_session
from adaptive_depth.errors import DepthsLeftOut, MeasurementError, StagesError
from adaptive_depth.measure.instruments import energy
from adaptive_depth.measure.profiling import profile

STAGE = Stages((Stage(("blocks.0",), ("blocks.1",), ()),))


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.heads(x, x, x, need_weights=False)[0]


class Values(nn.Module):
    """Singular values: an operator that no formula counts."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x) * torch.linalg.svdvals(x).sum()


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.calls_left = math.inf

    def forward(self, x):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("out of calls")
        return self.linear(x)


class Net(nn.Module):
    def __init__(self, inner, stem=None, head=None):
        super().__init__()
        self.stem = stem or nn.Linear(4, 8)
        self.blocks = nn.Sequential(Residual(inner()), Residual(inner()))
        self.head = head or nn.Linear(8, 3)

    def forward(self, x, *, scale=None):
        x = self.head(self.blocks(self.stem(x)))
        return x if scale is None else x * scale


def linear_net():
    return adapt(Net(lambda: nn.Linear(8, 8)), STAGE, example=torch.zeros(1, 4))


# -- multiply-adds and parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_convolutions_and_linears_are_counted_as_by_hand(batch):
    net = adapt(
        Net(
            lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU()),
            stem=nn.Conv2d(3, 4, 3, stride=2, padding=1),
            head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        ),
        Stages((Stage(("blocks.0",), ("blocks.1",)),)),
    )
    result = profile(net, torch.zeros(batch, 3, 8, 8), latency=False)
    stem, block, head = 4 * 4 * 4 * 27, 4 * 4 * 4 * 2 * 9, 4 * 3
    assert {skip: cost.macs for skip, cost in result.costs.items()} == {
        "F": stem + 2 * block + head,
        "T": stem + block + head,
    }
    stem, block, head = 4 * 27 + 4, 4 * 18 + 4 + 8, 4 * 3 + 3
    assert [cost.parameters for cost in result.costs.values()] == [stem + 2 * block + head, stem + block + head]
    assert result.batch_size == batch
    assert result.uncounted == {}


def test_a_shared_parameter_is_counted_once_but_its_products_twice():
    net = linear_net()
    net.model.blocks[1].inner.weight = net.model.blocks[0].inner.weight
    cost = profile(net, torch.zeros(1, 4), latency=False).costs["F"]
    assert cost.parameters == (4 * 8 + 8) + (8 * 8 + 8 + 8) + (8 * 3 + 3)
    assert cost.macs == 4 * 8 + 2 * 8 * 8 + 8 * 3


def test_fused_attention_is_counted():
    net = adapt(Net(Attention), STAGE)
    result = profile(net, torch.zeros(1, 5, 4), latency=False)
    projections, products = 5 * 8 * 24 + 5 * 8 * 8, 2 * 5 * 5 * 8
    rest = 5 * 4 * 8 + 5 * 8 * 3
    assert result.costs["F"].macs == 2 * (projections + products) + rest
    assert result.costs["T"].macs == projections + products + rest
    assert result.uncounted == {}
    assert torch.backends.mha.get_fastpath_enabled()


def test_inference_tensors_are_counted_alike():
    net = linear_net()
    with torch.inference_mode():
        inference = profile(net, torch.zeros(1, 4), latency=False)
    assert inference == profile(net, torch.zeros(1, 4), latency=False)


def test_keyword_inputs_are_passed_on_and_may_hold_the_batch():
    calls = []
    net = linear_net()
    net.model.head.register_forward_hook(lambda *_: calls.append(1))
    result = profile(net, x=torch.zeros(3, 4), scale=2.0, latency=False)
    assert result.batch_size == 3
    assert calls


def test_an_example_may_be_a_tuple_or_a_dict_as_for_adapt():
    x, net = torch.zeros(3, 4), linear_net()
    assert profile(net, (x,), latency=False) == profile(net, x, latency=False)
    assert profile(net, {"x": x, "scale": 2.0}, latency=False) == profile(net, x, scale=2.0, latency=False)


@pytest.mark.parametrize("skips", ["F", ["F"], ("F", "T")])
def test_depths_by_position_are_named_in_the_error(skips):
    with pytest.raises(MeasurementError, match="as an input: expected depths by name, skips="):
        profile(linear_net(), torch.zeros(3, 4), skips, latency=False)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("mobilenetv2_100", {}),
        ("vit_tiny_patch16_224", {"img_size": 64}),
        ("convnext_atto", {}),
    ],
)
def test_agrees_with_fvcore(name, arguments):
    net = adapt(timm.create_model(name, num_classes=10, **arguments)).eval()
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # fvcore knows attention as its two products only
    image = torch.zeros(1, 3, 64, 64)
    full, base = net.skips[0], net.skips[-1]
    result = profile(net, image, skips=(full, base), latency=False)
    for skip in (full, base):
        analysis = FlopCountAnalysis(net.extract(skip), image).unsupported_ops_warnings(False)
        by_operator = analysis.uncalled_modules_warnings(False).by_operator()
        assert result.costs[skip].macs == sum(by_operator[each] for each in ("conv", "linear", "matmul"))
    assert result.uncounted == {}


def test_multiply_adds_of_resnet50_are_the_papers():
    net = adapt(torchvision.models.resnet50()).to("meta")
    paper = {"FFFF": 4.11, "TFFF": 3.90, "TTFF": 3.46, "TTTF": 2.80, "TTTT": 2.58}
    result = profile(net, torch.zeros(1, 3, 224, 224, device="meta"), skips=paper, latency=False)
    assert {skip: cost.macs / 1e9 for skip, cost in result.costs.items()} == pytest.approx(paper, rel=0.01)
    assert result.uncounted == {}


@pytest.mark.slow
def test_multiply_adds_of_vit_b_16_are_the_papers():
    def blocks(*numbers):
        return tuple(f"encoder.layers.encoder_layer_{number}" for number in numbers)

    stages = [
        Stage(
            blocks(first, first + 1),
            blocks(first + 2),
            tuple(f"{block}.{norm}" for block in blocks(first, first + 1) for norm in ("ln_1", "ln_2")),
            channel_dim=-1,
        )
        for first in (0, 3, 6, 9)
    ]
    net = adapt(torchvision.models.vit_b_16(), stages, example=torch.zeros(1, 3, 224, 224)).to("meta")
    paper = {"FFFF": 17.58, "FFFT": 16.20, "TTFF": 14.67, "TTFT": 13.21, "TTTT": 11.76}
    result = profile(net, torch.zeros(1, 3, 224, 224, device="meta"), skips=paper, latency=False)
    assert {skip: cost.macs / 1e9 for skip, cost in result.costs.items()} == pytest.approx(paper, rel=0.01)
    assert result.uncounted == {}


def test_an_operator_without_a_formula_is_reported_with_its_calls():
    result = profile(adapt(Net(Values), STAGE), torch.ones(2, 4), latency=False)
    assert result.uncounted == {"aten._linalg_svd": 2}  # in the super-net; once in the base-net
    assert result.costs["T"].macs == 4 * 8 + 8 * 8 + 8 * 3
    assert "multiply-adds NOT counted, no formula: aten._linalg_svd (2 calls)" in str(result)


@pytest.mark.alone
def test_a_compiled_network_is_counted_like_an_eager_one():
    net = linear_net().eval()
    eager = profile(net, torch.zeros(1, 4), latency=False)
    net.compile(backend=lambda *_: lambda *_: (torch.zeros(1, 3),))  # code in which there is nothing to count
    with torch.no_grad():
        assert not net(torch.zeros(1, 4)).any()
    assert eager.costs["F"].macs == 4 * 8 + 2 * 8 * 8 + 8 * 3
    assert profile(net, torch.zeros(1, 4), latency=False) == eager


@pytest.mark.alone
def test_a_compiled_backend_is_timed_and_the_network_stays_as_it_is():
    net = linear_net()
    result = profile(net, torch.zeros(2, 4), backend="compiled", rounds=6, batch_sizes=[5], energy=False)
    assert result.backend == "compiled"
    assert ", compiled, batch of 2" in str(result)
    assert result.costs["T"].macs == profile(net, torch.zeros(2, 4), latency=False).costs["T"].macs
    assert all(cost.latency_ms and cost.memory_mb and set(cost.throughput) == {2, 5} for cost in result.costs.values())
    assert all(net.subnet(skip)._compiled_call_impl is None for skip in net.skips)


# -- time ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it."""
    time = SimpleNamespace(ns=0)
    monkeypatch.setattr(stopwatch, "perf_counter_ns", lambda: time.ns)
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: time.ns / 1e9)
    return time


def each_pass(net, do):
    """Call do(skip) in every forward pass of a sub-network."""
    names = {id(net.subnet(skip)): skip for skip in net.skips}
    net.model.register_forward_hook(lambda module, *_: do(names[id(module)]))


def advance(clock, ns):
    def do(skip):
        clock.ns += ns[skip]

    return do


def test_latency_is_the_time_of_one_pass_in_milliseconds(clock):
    net = linear_net()
    each_pass(net, advance(clock, {"F": 5_000_000, "T": 2_500_000}))
    costs = profile(net, torch.zeros(2, 4), rounds=6).costs
    assert [(cost.latency_low_ms, cost.latency_ms, cost.latency_high_ms) for cost in costs.values()] == [
        (5.0, 5.0, 5.0),
        (2.5, 2.5, 2.5),
    ]


# Ranks of the 95 % interval of a median: tables of the sign test's interval.
@pytest.mark.parametrize(("rounds", "low", "high"), [(5, None, None), (6, 1, 6), (9, 2, 8), (20, 6, 15), (100, 40, 61)])
def test_the_interval_of_the_median_is_that_of_the_sign_test(clock, rounds, low, high):
    net = linear_net()
    passes = iter([0, 0, 0, *range(1, rounds + 1), 0])  # before it is checked, counted and started, then its memory

    def do(skip):
        clock.ns += next(passes) * 1_000_000

    each_pass(net, do)
    cost = profile(net, torch.zeros(1, 4), skips="F", rounds=rounds, warmup=0).costs["F"]
    assert cost.latency_ms == (rounds + 1) / 2
    assert (cost.latency_low_ms, cost.latency_high_ms) == (low, high)


def test_every_round_runs_every_sub_network_in_an_order_of_its_own():
    def run():
        model = Net(lambda: nn.Linear(8, 8))
        model.blocks.extend([Residual(nn.Linear(8, 8)), Residual(nn.Linear(8, 8))])
        stages = [*STAGE, Stage(("blocks.2",), ("blocks.3",), ())]
        net = adapt(model, stages, example=torch.zeros(1, 4))
        calls = []
        each_pass(net, calls.append)
        profile(net, torch.zeros(1, 4), rounds=5, warmup=1)
        return calls[1 + 4 + 4 + 4 : -4]  # after check, count, start and warm-up; before the memory is measured

    calls = run()
    rounds = [tuple(calls[start : start + 4]) for start in range(0, len(calls), 4)]
    assert len(rounds) == 5
    assert all(Counter(order) == Counter(["FF", "FT", "TF", "TT"]) for order in rounds)
    assert len(set(rounds)) > 1
    assert run() == calls


@pytest.mark.parametrize(
    ("round_s", "seconds", "rounds"), [(2, 20, 10), (100, 20, 6), (0.001, 20, 100), (1, math.inf, 100)]
)
def test_rounds_follow_from_the_seconds_that_are_given(clock, round_s, seconds, rounds):
    net = linear_net()
    each_pass(net, advance(clock, {"F": int(round_s * 0.6e9), "T": int(round_s * 0.4e9)}))
    seen = []
    profile(net, torch.zeros(1, 4), seconds=seconds, on_progress=lambda *progress: seen.append(progress))
    timed = [told for told in seen if told[2] == "latency"]
    assert len(timed) == rounds
    assert timed[-1] == (rounds, rounds, "latency")


def test_progress_is_told_after_each_round():
    seen = []
    example, tell = torch.zeros(1, 4), lambda *progress: seen.append(progress)
    profile(linear_net(), example, rounds=3, batch_sizes=[1, 2], on_progress=tell)  # 1 is known from the latency
    start, timed = [(1, 2, "warming up"), (2, 2, "warming up")], [(1, 3), (2, 3), (3, 3)]
    rounds = [(*told, what) for what in ("latency", "throughput at batch 2") for told in timed]
    assert seen == start + rounds


def test_without_latency_nothing_is_timed():
    cost = profile(linear_net(), torch.zeros(1, 4), latency=False).costs["F"]
    assert (cost.latency_ms, cost.latency_low_ms, cost.latency_high_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("super_ms", "rounds"),
    [
        ([5, 5], 2),  # steady at once
        ([50, 20, 10, 9, 9], 5),  # 10 and 9 are 10 % apart with the base-net's nothing
        ([100, 1] * 5, 10),  # never steady
        ([25_000, 18_000, 1, 1], 2),  # the seconds are over
    ],
)
def test_warm_up_ends_when_two_rounds_take_the_same_time(clock, super_ms, rounds):
    net = linear_net()
    passes = iter([0, 0, 0, *super_ms, *[9] * 20])

    def do(skip):
        clock.ns += next(passes) * 1_000_000 if skip == "F" else 1

    each_pass(net, do)
    assert profile(net, torch.zeros(1, 4), rounds=1).conditions["warmup_rounds"] == rounds


def test_throughput_is_that_of_each_batch_size_with_the_samples_in_turn(clock):
    net = linear_net()
    seen = {}

    def hook(module, inputs, output):
        seen.setdefault(len(output), output.detach().clone())
        clock.ns += (1 + len(output)) * 1_000_000  # a millisecond a pass and one a sample

    net.model.register_forward_hook(hook)
    example = torch.randn(3, 4)
    result = profile(net, example, rounds=6, batch_sizes=[1, 7])
    for cost in result.costs.values():
        assert cost.throughput == pytest.approx({1: 1000 / 2, 3: 3000 / 4, 7: 7000 / 8})
    assert torch.allclose(seen[7], seen[3][[0, 1, 2, 0, 1, 2, 0]])
    assert torch.allclose(seen[1], seen[3][:1])
    titles = " ".join(line for line in str(result).splitlines() if "samples/s" in line or line.startswith("skip"))
    assert titles.count("samples/s,") == 3  # a title may be in two lines
    assert all(f"batch {size}" in titles for size in (1, 3, 7))
    assert Profile.from_json(json.loads(json.dumps(result.to_json()))) == result


# -- memory and energy ----------------------------------------------------------------------------------------------


def test_memory_is_weights_input_and_what_is_held_at_the_same_time():
    net = adapt(Net(lambda: nn.Linear(8, 8)), STAGE, example=torch.zeros(1, 4))
    costs = profile(net, torch.zeros(100, 4), rounds=1).costs
    rows = 100 * 4  # bytes of one float32 for each sample
    weights = {"F": 4 * (4 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 3 + 3), "T": 4 * (4 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3)}
    # At the end of the last block: its input, inner(input) and their sum, each of 8 numbers; and the stem's output,
    # which the call of the blocks keeps as its argument, where that is another one than the last block's input.
    held = {"F": 4 * 8 * rows, "T": 3 * 8 * rows}
    for skip, cost in costs.items():
        assert cost.memory_mb == pytest.approx((weights[skip] + 4 * rows + held[skip]) / 1e6, rel=1e-9)


def test_measuring_memory_keeps_the_process_quiet(capfd):
    profile(linear_net(), torch.zeros(1, 4), rounds=1)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Counters as Linux shows those of a processor and its memory; returns what draws microjoules."""
    from zeus.device import cpu as cpus
    from zeus.device.cpu import rapl

    package, dram = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0" / "intel-rapl:0:0"
    drawn = {package: 5_000_000, dram: 1_000_000}
    for place, name in ((package, "package-0"), (dram, "dram")):
        place.mkdir()
        (place / "name").write_text(name)
        (place / "max_energy_range_uj").write_text("1000000000000")

    def draw(microjoules):
        for place, part in ((package, 0.75), (dram, 0.25)):
            drawn[place] += microjoules * part
            (place / "energy_uj").write_text(str(int(drawn[place])))

    draw(0)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path))
    monkeypatch.setattr(cpus, "_cpus", None)
    rapl.rapl_is_available.cache_clear()
    yield draw
    rapl.rapl_is_available.cache_clear()


def test_energy_is_read_from_the_counters_through_zeus(rapl, clock):
    net = linear_net()

    def do(skip):
        clock.ns += 100_000_000 if skip == "F" else 50_000_000
        rapl(3000 if skip == "F" else 1000)

    each_pass(net, do)
    result = profile(net, torch.zeros(1, 4), rounds=1)
    assert result.energy == "RAPL, 1 processor package(s) and memory"
    assert result.costs["F"].energy_mj == pytest.approx(3.0)
    assert result.costs["T"].energy_mj == pytest.approx(1.0)
    assert "energy mJ" in str(result)
    unasked = profile(net, torch.zeros(1, 4), rounds=1, energy=False)
    assert (unasked.energy, unasked.costs["F"].energy_mj) == ("not measured", None)


def test_counters_that_stand_still_measure_nothing(rapl):
    result = profile(linear_net(), torch.zeros(1, 4), rounds=1)
    assert (
        result.energy
        == "not measurable here: RAPL, 1 processor package(s) and memory did not advance while the network ran"
    )
    assert result.costs["F"].energy_mj is None


@pytest.mark.parametrize("installed", [True, False])
def test_without_counters_no_energy_is_made_up(installed, monkeypatch):
    from zeus.device import cpu as cpus
    from zeus.device.cpu import rapl

    monkeypatch.setattr(cpus, "_cpus", None)
    monkeypatch.setattr(rapl, "rapl_is_available", lambda: False)
    if not installed:
        monkeypatch.setattr(energy, "find_spec", lambda name: None)
    result = profile(linear_net(), torch.zeros(1, 4), rounds=1)
    why = "no energy counter (NVML, RAPL, Jetson) can be read" if installed else "zeus is not installed"
    assert result.energy.startswith(f"not measurable here: {why}")
    assert result.costs["F"].energy_mj is None
    assert f"Energy: {result.energy}." in str(result)


# -- state --------------------------------------------------------------------------------------------------------


def test_runs_in_eval_mode_and_leaves_the_network_as_it_was():
    net = adapt(timm.create_model("resnet18", num_classes=2)).train()
    net.model.bn1.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    seen = set()
    net.model.fc.register_forward_hook(lambda module, *_: seen.add((module.training, torch.is_grad_enabled())))
    profile(net, torch.randn(2, 3, 32, 32), skips=["FFFF", "TTTT"], rounds=1)
    assert seen == {(False, False)}
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8])  # fails in the check, the count or the timing
def test_modes_and_switches_are_put_back_after_an_error(calls):
    net = adapt(Net(Fails), STAGE, example=torch.zeros(1, 4)).train()
    net.model.head.eval()
    for block in net.model.blocks:
        block.inner.calls_left = calls
    with pytest.raises(RuntimeError, match="out of calls"):
        profile(net, torch.zeros(1, 4), rounds=20)
    assert net.training
    assert net.subnet("T").training
    assert not net.model.head.training
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


# -- errors and values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, r"rounds=0: expected a whole number of at least 1, or None"),
        ({"rounds": 2.5}, r"rounds=2\.5: expected a whole number"),
        ({"seconds": 0}, r"seconds=0: expected a number above 0"),
        ({"seconds": math.nan}, r"seconds=nan: expected a number above 0"),
        ({"warmup": -1}, r"warmup=-1: expected a whole number of rounds, 0 or more"),
        ({"batch_sizes": [0]}, r"batch_sizes=\[0\]: expected whole numbers of at least 1, such as \(8, 32\)"),
        ({"backend": "onnx"}, r"backend='onnx': expected one of eager, compiled"),
        ({"skips": []}, r"skips=\[\] names no sub-network: expected some of F, T"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(MeasurementError, match=message):
        profile(linear_net(), torch.zeros(1, 4), **arguments)


def test_an_unknown_skip_is_refused():
    with pytest.raises(SkipError, match="'TT' is for 2 stages, but the network has 1"):
        profile(linear_net(), torch.zeros(1, 4), skips=["F", "TT"])


@pytest.mark.parametrize("example", [(), (3,), (torch.tensor(1.0),), (torch.zeros(0, 4),)])
def test_an_example_without_a_batch_is_refused(example):
    with pytest.raises(MeasurementError, match="holds no tensor with a batch dimension"):
        profile(linear_net(), *example)


def test_a_model_that_is_not_adapted_is_refused():
    with pytest.raises(MeasurementError, match=r"received a Linear: expected an adapted network, adapt\(model\)"):
        profile(nn.Linear(4, 4), torch.zeros(1, 4))


def test_a_session_is_refused_with_what_measures_it():
    session = open_session(linear_net())
    with pytest.raises(MeasurementError, match=r"received a session: .*latency\.measure_latencies\(session, x, "):
        profile(session, torch.zeros(1, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", [torch.AcceleratorError, torch.OutOfMemoryError])
def test_a_device_that_goes_away_is_told_and_nothing_is_left_changed(failure):
    net = adapt(Net(Fails), STAGE, example=torch.zeros(1, 4)).train()

    def fail(*_):
        raise failure("CUDA error: device is gone", 1) if failure is torch.AcceleratorError else failure("no memory")

    calls = []
    net.model.head.register_forward_hook(lambda *_: calls.append(1) or (len(calls) > 6 and fail()) or None)
    message = "cpu failed while it was measured .* this profile was discarded; check that the device responds"
    with pytest.raises(MeasurementError, match=message):
        profile(net, torch.zeros(1, 4), rounds=20)
    assert net.training


def test_latency_on_the_meta_device_is_refused():
    with pytest.raises(MeasurementError, match="meta device, which computes nothing: pass latency=False"):
        profile(linear_net(), torch.zeros(1, 4, device="meta"))


def test_a_profile_survives_json():
    result = profile(adapt(Net(Values), STAGE), torch.ones(2, 4), rounds=6)
    assert Profile.from_json(json.loads(json.dumps(result.to_json()))) == result


PROFILE_FIELDS = "expected an object with costs, batch_size, device, uncounted"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({}, PROFILE_FIELDS),
        (
            {"costs": [{"skip": "F", "flops": 3}]},
            "0.macs: Field required; expected objects with skip, macs, parameters",
        ),
        ({"costs": [], "extra": 1}, PROFILE_FIELDS),
    ],
)
def test_a_broken_profile_is_refused(broken, said):
    with pytest.raises(AdaptiveDepthError, match=said):
        Profile.from_json(broken)


def test_a_profile_tells_the_device_and_prints_every_sub_network():
    result = profile(linear_net(), torch.zeros(1, 4), rounds=1)
    assert result.device["type"] == "cpu"
    assert result.device["processor"]
    assert result.device["torch"] == torch.__version__
    assert result.device["threads"] == torch.get_num_threads()
    head, titles, supernet, basenet, *_ = str(result).splitlines()
    assert head.endswith(f"torch {torch.__version__}, batch of 1")
    assert titles.split()[:2] == ["skip", "kMACs"]
    assert supernet.split()[:3] == ["F", "0.184", "211"]
    assert basenet.split()[:3] == ["T", "0.120", "139"]
    assert (result.conditions["rounds"], result.conditions["drift_percent"]) == (1, None)
    assert {"load", "clock_mhz"} & {*result.conditions["before"], *result.conditions["after"]}
    assert supernet.split()[4] == "-"  # one round is too few for an interval


@pytest.mark.parametrize(
    ("largest", "unit"), [(1e8, "GMACs"), (9e7, "MMACs"), (1e5, "MMACs"), (9e4, "kMACs"), (0, "kMACs")]
)
def test_units_of_multiply_adds(largest, unit):
    assert macs_unit(largest)[1] == unit


def test_a_batch_of_keyword_arguments(nets):
    class Named(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, pixel_values):
            return {"logits": self.inner(pixel_values)}

    stages = [
        Stage([f"inner.{p}" for p in s.mandatory], [f"inner.{p}" for p in s.skippable]) for s in nets.chain_stages()
    ]
    network = nets.chain()
    x = torch.zeros(2, 3, 8, 8)
    plain = profile(network, x, latency=False)
    named = profile(adapt(Named(network.model), stages), {"pixel_values": x}, latency=False)
    assert [cost.macs for cost in named.costs.values()] == [cost.macs for cost in plain.costs.values()]


def test_depths_that_cannot_be_used_by_themselves_are_left_out(nets):
    x, network = torch.tensor([[5, 9, 3]]), nets.one_attention()
    with pytest.warns(DepthsLeftOut, match="Left out: TF, TT"):
        result = profile(network, x, latency=False)
    assert (list(result.costs), list(result.left_out)) == (["FF", "FT"], ["TF", "TT"])
    with pytest.raises(StagesError, match="sub-network TT cannot be"):
        profile(network, x, latency=False, skips="TT")

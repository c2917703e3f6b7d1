"""Cost of every sub-network: multiply-adds, parameters, and latency on the device of an example input."""

import platform
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .costs import Cost, Profile
from .errors import MeasurementError
from .modes import evaluating, without_fast_paths
from .network import AdaptiveNetwork, check_adapted
from .skip import Skip, parse_skip

# Operators that do no multiply-adds in the field's count, beside pointwise ones and views (`_is_free`).
_FREE_KINDS = {
    "copies, joins, index": """_to_copy _unsafe_view as_strided cat clone constant_pad_nd contiguous copy embedding
        fill flip gather im2col index index_add index_copy index_fill index_put index_select lift_fresh masked_fill
        masked_scatter masked_select pixel_shuffle pixel_unshuffle channel_shuffle reflection_pad1d reflection_pad2d
        repeat repeat_interleave replication_pad2d roll scatter scatter_add select_scatter set slice_scatter stack tril
        triu upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d zero""",
    "new tensors, scalars": """_local_scalar_dense arange bernoulli empty empty_like empty_permuted empty_strided eye
        full full_like linspace native_dropout new_empty new_empty_strided new_full new_ones new_zeros normal ones
        ones_like rand rand_like randint randn randn_like randperm resize scalar_tensor uniform zeros zeros_like""",
    "reductions, order": """all amax amin aminmax any argmax argmin argsort count_nonzero cummax cumsum
        linalg_vector_norm logsumexp max mean median min nonzero norm prod sort std std_mean sum topk var var_mean""",
    "pooling, softmax": """_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _safe_softmax _softmax
        adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices
        max_pool3d_with_indices""",
    "normalisation": """_batch_norm_no_update _fused_rms_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm native_batch_norm native_group_norm
        native_layer_norm""",
    "pointwise without the tag": "glu hardswish log_sigmoid_forward prelu rrelu_with_noise",
}
_FREE = frozenset(" ".join(_FREE_KINDS.values()).split())

_LEAST, _MOST = 6, 100  # rounds chosen by itself; an interval of 95 % needs six


def profile(
    network: AdaptiveNetwork,
    *example: Any,
    skips: Iterable[Skip] | None = None,
    latency: bool = True,
    rounds: int | None = None,
    seconds: float = 10.0,
    warmup: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> Profile:
    """Measure what sub-networks cost on this device for one example input.

    Everything runs in eval mode without gradients; modes are put back. Time is measured in rounds: in each, every
    sub-network runs once, in an order shuffled anew (by a fixed seed), so that what slows the device down for a while
    slows all of them. An accelerator is waited for before and after each pass.

    Multiply-adds are what the paper calls FLOPs: those of matrix products, convolutions and attention; biases, norms,
    activations and pooling are left out. What a model does once a batch, whatever its size, is divided by it too.

    Arguments:
        network: an adapted network; of a compiled one, the compiled code is timed.
        *example, **kwargs: the input, as the original model takes it, such as `[batch, channels, height, width]`,
            on the device of the network. Its first tensor gives the device and, as first dimension, the batch size.
        skips: which sub-networks, one or several; all by default.
        latency: also measure time. Without, an example and a network on the meta device do.
        rounds: how often each sub-network is timed. By default as often as `seconds` allow, 6 to 100 times.
        seconds: about how long the timing takes where `rounds` is not given; warm-up comes on top.
        warmup: rounds that are run before and not timed.
        on_progress: called with (rounds done, rounds in all) after each timed round; the second is an estimate
            where `rounds` is not given.

    Raises:
        SkipError: a skip that does not fit the stages.
        MeasurementError: rounds, seconds or warm-up out of range, or an example without a tensor.

    Example:
        >>> import adaptive_depth as ad, timm, torch
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> result = profile(net, torch.zeros(1, 3, 32, 32), skips=["FFFF", "TTTT"], latency=False)
        >>> result.costs["FFFF"].macs, result.costs["TTTT"].macs
        (37016576, 18142208)
    """
    _check_measurement(network, rounds, seconds, warmup)
    asked = network.skips if skips is None else [skips] if isinstance(skips, str) else skips
    chosen = [parse_skip(skip, len(network.stages)) for skip in asked]
    if not chosen:
        raise MeasurementError(f"skips={skips!r} names no sub-network: expected some of {', '.join(network.skips)}")
    if len(example) == 1 and isinstance(example[0], Mapping):  # a batch of Hugging Face's
        example, kwargs = (), {**example[0], **kwargs}
    device, batch_size = _device_and_batch(example, kwargs)
    if latency and device.type == "meta":
        raise MeasurementError("the example is on the meta device, which computes nothing: pass latency=False")
    with evaluating(network), torch.no_grad():
        network(*example, **kwargs)  # proves stages written by hand
        subnets = {skip: network.subnet(skip) for skip in chosen}
        runs = {skip: partial(subnet, *example, **kwargs) for skip, subnet in subnets.items()}
        counts, uncounted = _count_all(runs)
        plan = partial(_planned, rounds, seconds)
        times = _time_all(runs, _waiter(device), warmup, plan, on_progress) if latency else {}
    costs = {
        skip: Cost(
            skip,
            round(counts[skip] / batch_size),
            sum(parameter.numel() for parameter in subnet.parameters()),
            median(times[skip]) if latency else None,
            *_interval(times.get(skip, ())),
        )
        for skip, subnet in subnets.items()
    }
    return Profile(costs, batch_size, _describe(device), uncounted)


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_measurement(network: object, rounds: object, seconds: object, warmup: object) -> None:
    check_adapted(network, "profile", MeasurementError)
    if rounds is not None and not (isinstance(rounds, int) and rounds >= 1):
        raise MeasurementError(
            f"rounds={rounds!r}: expected a whole number of at least 1, or None to choose by seconds"
        )
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise MeasurementError(f"seconds={seconds!r}: expected a number above 0")
    if not (isinstance(warmup, int) and warmup >= 0):
        raise MeasurementError(f"warmup={warmup!r}: expected a whole number of rounds, 0 or more")


def _device_and_batch(example: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.device, int]:
    for leaf in tree_leaves((example, kwargs)):
        if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0]:
            return leaf.device, leaf.shape[0]
    raise MeasurementError(
        "the example holds no tensor with a batch dimension: expected an input of the model, such as "
        "profile(network, images) with images [batch, 3, height, width]"
    )


def _describe(device: torch.device) -> dict[str, Any]:
    return {
        "type": device.type,
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


# -- multiply-adds -----------------------------------------------------------------------------------------------------


class _MacCounter(TorchDispatchMode):
    """Counts multiply-adds by torch's registry of formulas (floating-point operations: two each)."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        higher = isinstance(func, HigherOrderOperator)
        known = func if higher else func._overloadpacket
        formula = flop_registry.get(known)
        unknown = formula is None and (higher or not _is_free(func))
        if unknown and not higher:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        elif unknown:
            self.uncounted[str(known)] += 1
        return output


def _is_free(operator: torch._ops.OpOverload) -> bool:
    """Is it known to do no multiply-adds?"""
    if operator.is_view or torch.Tag.pointwise in operator.tags:
        return True
    namespace, _, name = operator._schema.name.partition("::")
    return namespace == "prim" or (namespace == "aten" and name.removesuffix("_") in _FREE)


def _count_all(runs: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Multiply-adds of the whole example by skip, and the operators that were not counted.

    A compiled network runs uncompiled here: torch.compile steps aside for a dispatch mode.
    """
    macs: dict[str, int] = {}
    uncounted: Counter[str] = Counter()
    with without_fast_paths():  # attention reaches the counter as its products, not as one fused operator
        for skip, run in runs.items():
            with _MacCounter() as counter:
                run()
            macs[skip] = counter.flops // 2
            uncounted |= counter.uncounted
    return macs, dict(uncounted)


# -- time --------------------------------------------------------------------------------------------------------------


def _planned(rounds: int | None, seconds: float, done: int, elapsed: float) -> int:
    """How many rounds there shall be, as it looks after some of them."""
    if rounds is not None:
        return rounds
    affordable = done * seconds / max(elapsed, 1e-9)
    return max(done, int(min(_MOST, max(_LEAST, affordable))))


def _time_all(
    runs: Mapping[str, Callable[[], Any]],
    wait: Callable[[], None],
    warmup: int,
    planned: Callable[[int, float], int],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, list[float]]:
    """Milliseconds of every timed pass, by skip."""
    for _ in range(warmup):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {skip: [] for skip in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle
    start, done, total = perf_counter(), 0, planned(0, 0.0)
    while done < total:
        shuffle(order)
        for skip in order:
            times[skip].append(_milliseconds(runs[skip], wait))
        done += 1
        total = planned(done, perf_counter() - start)
        if on_progress is not None:
            on_progress(done, total)
    return times


def _milliseconds(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = perf_counter_ns()
    run()
    wait()
    return (perf_counter_ns() - start) / 1e6


def _waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done everything it was given."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "mps":
        return torch.mps.synchronize
    return partial(torch.accelerator.synchronize, device)


def _interval(times: Sequence[float]) -> tuple[float | None, float | None]:
    """The narrowest pair of order statistics around the median that covers it with at least 95 %.

    Of n times, the k-th smallest lies above the true median with the probability that fewer than k of n fair
    coins show heads; the k-th largest lies below it with the same.
    """
    n, k = len(times), 0
    term = tail = 1  # coins with k heads, with at most k heads, of 2^n
    while 2 * tail * 20 <= 2**n:
        k += 1
        term = term * (n - k + 1) // k
        tail += term
    ranked = sorted(times)
    return (ranked[k - 1], ranked[n - k]) if k else (None, None)

"""Cost of every sub-network: multiply-adds, parameters, and time, memory and energy on an example's device."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..batches import map_samples, samples_in, shapes_in
from ..choose.costs import Cost, Profile, median_interval
from ..core.network import AdaptiveNetwork, check_runs
from ..core.usable import usable
from ..errors import MeasurementError, one_line
from ..models import one_argument
from ..modes import evaluating
from ..registry import Registry
from ..skip import Skip, parse_skip
from ..stopwatch import drift, planned, time_all
from .instruments.conditions import describe, moment
from .instruments.energy import energy_of_all, find_meter
from .instruments.macs import count_macs
from .instruments.memory import input_bytes, peak_bytes, weight_bytes
from .instruments.timing import waiter, warm_up

OnProgress = Callable[[int, int, str], None]

# How each backend turns a sub-network into a callable.
BACKENDS: Registry[Callable[[nn.Module], Callable[..., Any]]] = Registry("backend", MeasurementError)
BACKENDS.register("eager")(lambda subnet: subnet)
BACKENDS.register("compiled")(lambda subnet: torch.compile(subnet))


def profile(
    network: AdaptiveNetwork,
    *example: Any,
    skips: Iterable[Skip] | None = None,
    latency: bool = True,
    backend: str = "eager",
    batch_sizes: Sequence[int] = (),
    energy: bool = True,
    rounds: int | None = None,
    seconds: float = 40.0,
    warmup: int | None = None,
    on_progress: OnProgress | None = None,
    **kwargs: Any,
) -> Profile:
    """Measure what sub-networks cost on this device for one example input.

    Everything runs in eval mode without gradients; modes are restored. Time is measured in rounds: in each, every
    sub-network runs once, in a newly shuffled order (with a fixed seed), so that a temporary slowdown of the device
    affects all of them. Accelerators are synchronised before and after each pass.

    Multiply-adds are what the paper calls FLOPs: those of matrix products, convolutions and attention; biases, norms,
    activations, pooling and resampling are left out. Work done once per batch is divided by the batch size, too. For
    a detector, the profile reports how often it suppresses overlapping boxes, and which multiply-adds run on the
    remaining ones: these depend on what is in the image, and so on the example.

    Arguments:
        network: an adapted network; if it is compiled, the compiled code is timed.
        *example, **kwargs: the input, as the original model takes it, such as `[batch, channels, height, width]`,
            on the device of the network; several also as one tuple or one dict. The first dimension of its tensors is
            the batch size, and so is the length of a list of images. If tensors differ in it, or are in another kind of
            list (nodes and edges of a graph), the whole example counts as one sample.
        skips: which sub-networks, one or several; by default all that can be used on their own (`Profile.left_out`).
        latency: also measure time, memory and energy. Without it, example and network may be on the meta device.
        backend: what runs the sub-networks: `eager`, or `compiled` (`torch.compile`, which leaves the network itself
            unchanged and compiles every sub-network).
        batch_sizes: further batch sizes to measure the throughput at, with the example's samples repeated.
        energy: also measure energy, if the device has counters and zeus is installed to read them; it takes half a
            second per sub-network, three times. The result says what was read, or why nothing was.
        rounds: how often each sub-network is timed. By default as often as `seconds` allow, 6 to 100 times.
        seconds: about how long the timing takes for each batch size if `rounds` is not given, in addition to warm-up.
        warmup: untimed rounds in advance; by default until two in a row take the same time (to 5 %), but at most ten
            and for no longer than `seconds`.
        on_progress: called with (done, total, what) after each step; while timing, the total is an estimate if
            `rounds` is not given.

    Raises:
        SkipError: a skip that does not fit the stages.
        MeasurementError: arguments out of range, an example without a tensor, or a device that failed during the
            measurement (lost, or out of memory).

    Example:
        >>> import adaptive_depth as ad, timm, torch
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> result = profile(net, torch.zeros(1, 3, 32, 32), skips=["FFFF", "TTTT"], latency=False)
        >>> result.costs["FFFF"].macs, result.costs["TTTT"].macs
        (37016576, 18142208)
    """
    _check_measurement(network, rounds, seconds, warmup, batch_sizes, backend)
    chosen = chosen_skips(network, skips)
    if len(example) == 1 and isinstance(example[0], Mapping):  # a Hugging Face batch
        example, kwargs = (), {**example[0], **kwargs}
    elif len(example) == 1 and isinstance(example[0], tuple):  # as `adapt` and loaders have several inputs
        example = one_argument(network.model, example[0])
    _check_no_skips(example)
    device, batch_size = _device_and_batch(example, kwargs)
    if batch_sizes and samples_in((example, kwargs)) is None:
        raise MeasurementError(
            f"batch_sizes={batch_sizes!r} repeats the samples of the example, but it is not certain which entries of "
            f"tensors {shapes_in((example, kwargs))} form a sample: expected tensors with the same first dimension, or "
            "no batch_sizes"
        )
    if latency and device.type == "meta":
        raise MeasurementError("the example is on the meta device, which computes nothing: pass latency=False")
    plan = partial(planned, rounds, seconds)
    with evaluating(network), torch.no_grad(), device_failures(device):
        network(*example, **kwargs)  # proves hand-written stages
        chosen, left_out = usable(network, chosen) if skips is None else (chosen, {})
        subnets = {skip: network.subnet(skip) for skip in chosen}
        counts = count_macs({skip: partial(subnet, *example, **kwargs) for skip, subnet in subnets.items()})
        costs = {
            skip: Cost(skip, round(counts.macs[skip] / batch_size), sum(p.numel() for p in subnet.parameters()))
            for skip, subnet in subnets.items()
        }
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves((example, kwargs)) if isinstance(leaf, Tensor))
        found = Profile(
            costs,
            batch_size,
            describe(device),
            counts.uncounted,
            backend,
            network.fingerprint,
            inputs=shapes,
            left_out=left_out,
            suppressions=counts.suppressions,
            macs_on_boxes={skip: round(number / batch_size) for skip, number in counts.on_boxes.items()},
        )
        if not latency:
            return found
        bench = _Bench(subnets, example, kwargs, device, BACKENDS[backend], on_progress or say_nothing)
        return bench.measure(found, plan, warmup, seconds, batch_sizes, energy)


class _Bench:
    """Sub-networks on a device, ready to run."""

    def __init__(
        self,
        subnets: Mapping[str, nn.Module],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        device: torch.device,
        prepare: Callable[[nn.Module], Callable[..., Any]],
        tell: OnProgress,
    ) -> None:
        self.subnets, self.args, self.kwargs, self.device, self.tell = subnets, args, kwargs, device, tell
        self.callables = {skip: prepare(subnet) for skip, subnet in subnets.items()}
        self.wait = waiter(device)

    def runs(self, samples: int | None = None) -> dict[str, Callable[[], Any]]:
        """A pass of each sub-network over the example, or over `samples` samples taken from it in turn."""
        args, kwargs = self.args, self.kwargs
        if samples is not None:
            args, kwargs = _resized((args, kwargs), _device_and_batch(args, kwargs)[1], samples)
        return {skip: partial(run, *args, **kwargs) for skip, run in self.callables.items()}

    def measure(
        self,
        found: Profile,
        plan: Callable[[int, float], int],
        warmup: int | None,
        seconds: float,
        batch_sizes: Sequence[int],
        energy: bool,
    ) -> Profile:
        runs = self.runs()
        for done, run in enumerate(runs.values(), 1):
            run()  # compiles now, while progress is shown
            self.tell(done, len(runs), "warming up")
        conditions: dict[str, Any] = {"before": moment(self.device)}
        conditions["warmup_rounds"] = warm_up(runs, self.wait, warmup, seconds)
        times = time_all(runs, plan, partial(self._round, "latency"), wait=self.wait)
        conditions |= {"rounds": len(next(iter(times.values()))), "after": moment(self.device)}
        conditions["drift_percent"] = drift(times)
        latency = {skip: median(passes) for skip, passes in times.items()}
        peaks = peak_bytes(runs, self.device)
        drawn, how = self._energy(runs, latency) if energy else (None, "not measured")
        rates = self._throughput(batch_sizes, plan, seconds, {found.batch_size: latency})
        resident = input_bytes(tree_leaves((self.args, self.kwargs)))
        costs = {}
        for skip, cost in found.costs.items():
            low, high = median_interval(times[skip])
            needs = None if peaks is None else (weight_bytes(self.subnets[skip]) + resident + peaks[skip]) / 1e6
            costs[skip] = Cost(
                skip,
                cost.macs,
                cost.parameters,
                latency[skip],
                low,
                high,
                needs,
                drawn[skip] if drawn else None,
                rates[skip],
                tuple(round(passed, 4) for passed in times[skip]),
            )
        return replace(found, costs=costs, conditions=conditions, energy=how)

    def _round(self, what: str, done: int, total: int) -> None:
        self.tell(done, total, what)

    def _energy(self, runs: Mapping[str, Callable[[], Any]], latency: Mapping[str, float]) -> tuple[Any, str]:
        meter, how = find_meter(self.device)
        if meter is None:
            return None, how
        drawn = energy_of_all(runs, self.wait, latency, meter, partial(self._round, "energy"))
        return drawn, how if drawn else f"not measurable here: {how} did not advance while the network ran"

    def _throughput(
        self,
        batch_sizes: Sequence[int],
        plan: Callable[[int, float], int],
        seconds: float,
        known: Mapping[int, Mapping[str, float]],
    ) -> dict[str, dict[int, float]]:
        """Samples per second by skip and batch size; for the `known` sizes, from the latency."""
        medians = {batch: dict(latency) for batch, latency in known.items()}
        for batch in sorted({*batch_sizes} - {*medians}):
            runs = self.runs(batch)
            warm_up(runs, self.wait, None, seconds)
            times = time_all(runs, plan, partial(self._round, f"throughput at batch {batch}"), wait=self.wait)
            medians[batch] = {skip: median(passes) for skip, passes in times.items()}
        return {
            skip: {batch: 1000 * batch / medians[batch][skip] for batch in sorted(medians)} for skip in self.subnets
        }


def _resized(inputs: Any, batch: int, samples: int) -> Any:
    """The same inputs with a different number of samples: the batch's, repeated in turn."""

    def resize(found: Any) -> Any:
        if isinstance(found, Tensor):
            return found[torch.arange(samples, device=found.device) % batch].contiguous()
        return [found[place % batch] for place in range(samples)]

    args, kwargs = inputs
    return map_samples(tuple(args), resize), map_samples(dict(kwargs), resize)


@contextmanager
def device_failures(device: torch.device) -> Iterator[None]:
    """Report in the library's words that a device was lost or ran out of memory."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise MeasurementError(
            f"{device} failed while it was measured ({one_line(error)[:200]}): this profile was discarded; check that "
            "the device responds and has enough memory (a smaller batch or fewer batch_sizes), then measure again"
        ) from error


def say_nothing(done: int, total: int, what: str) -> None:
    pass


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_measurement(
    network: object, rounds: object, seconds: object, warmup: object, batch_sizes: object, backend: object
) -> None:
    if not isinstance(network, nn.Module) and callable(network) and hasattr(network, "artifact"):
        raise MeasurementError(
            "profile received a session: expected an adapted network; the latencies of a file are measured by "
            "adaptive_depth.governor.latency.measure_latencies(session, x, session.skips)"
        )
    check_runs(network, "profile", MeasurementError)
    check_rounds(rounds, seconds, warmup)
    sizes = batch_sizes if isinstance(batch_sizes, Sequence) and not isinstance(batch_sizes, str) else [batch_sizes]
    if not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise MeasurementError(f"batch_sizes={batch_sizes!r}: expected whole numbers of at least 1, such as (8, 32)")
    BACKENDS.take(backend)


def chosen_skips(network: AdaptiveNetwork, skips: Iterable[Skip] | None) -> list[str]:
    """Which sub-networks are measured: one or several; all if None."""
    asked = network.skips if skips is None else [skips] if isinstance(skips, str) else skips
    chosen = [parse_skip(skip, len(network.stages)) for skip in asked]
    if not chosen:
        raise MeasurementError(f"skips={skips!r} names no sub-network: expected some of {', '.join(network.skips)}")
    return chosen


def check_rounds(rounds: object, seconds: object, warmup: object) -> None:
    if rounds is not None and not (isinstance(rounds, int) and rounds >= 1):
        raise MeasurementError(
            f"rounds={rounds!r}: expected a whole number of at least 1, or None to choose by seconds"
        )
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise MeasurementError(f"seconds={seconds!r}: expected a number above 0")
    if warmup is not None and not (isinstance(warmup, int) and warmup >= 0):
        raise MeasurementError(
            f"warmup={warmup!r}: expected a whole number of rounds, 0 or more, or None to warm up until steady"
        )


def _check_no_skips(example: Sequence[Any]) -> None:
    """Raise if depths are among the positional arguments, which all go to the model."""
    for value in example:
        names = [value] if isinstance(value, str) else value if isinstance(value, list | tuple | set) else []
        if names and all(isinstance(name, str) and set(name) <= {"T", "F"} for name in names):
            raise MeasurementError(f"profile received {value!r} as an input: expected depths by name, skips={value!r}")


def _device_and_batch(example: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.device, int]:
    """Of an example; if its number of samples is not certain, it counts as one sample."""
    batch = samples_in((tuple(example), kwargs))
    for leaf in tree_leaves((example, kwargs)):
        if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] and batch != 0:
            return leaf.device, batch or 1
    raise MeasurementError(
        "the example holds no tensor with a batch dimension: expected an input of the model, such as "
        "profile(network, images) with images [batch, 3, height, width]"
    )

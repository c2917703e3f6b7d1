"""The last batches of a training, kept off the device in bounded memory, for passes that learn from them later."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import TrainingError

_KEPT = (Tensor, bool, int, float, str, type(None))


@dataclass(frozen=True)
class _Bytes:
    """A floating tensor `[samples, channels, ...]` in 8 bits per value, with a range for each channel of each sample.

    The error is at most 1/510 of that range: half a step of an 8-bit image.
    """

    codes: Tensor
    low: Tensor
    step: Tensor
    kind: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "_Bytes":
        exact = tensor.detach().float()
        places = tuple(range(2, exact.ndim))
        low, high = exact.amin(places, keepdim=True), exact.amax(places, keepdim=True)
        step = (high - low).div_(255)
        # The clamp avoids 0/0 in constant channels.
        # The clamp avoids 0/0 in constant channels.
        codes = ((exact - low) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.uint8)
        return cls(codes.cpu(), low.cpu(), step.cpu(), tensor.dtype)

    def back(self, device: torch.device) -> Tensor:
        codes, low, step = (each.to(device, non_blocking=True) for each in (self.codes, self.low, self.step))
        return (codes * step + low).to(self.kind)


class Replay:
    """The newest `size` batches by their number; older ones are dropped.

    Tensors are copied, so a loader may reuse the same memory. Floating tensors of three or more dimensions (images,
    features) are kept exactly if all batches together fit into `limit_mb`, else in 8 bits per value; everything else is
    kept exactly.

    Arguments:
        size: how many batches.
        limit_mb: memory for all of them, in megabytes (10^6 bytes).
    """

    def __init__(self, size: int, limit_mb: float) -> None:
        self.size, self.limit_mb = size, limit_mb
        self.batches: OrderedDict[int, Any] = OrderedDict()

    def put(self, number: int, batch: Any) -> None:
        """Keep a batch, any nesting of tensors and plain values in lists, tuples and dicts.

        Raises:
            TrainingError: something that cannot be kept, or more than the limit.
        """
        leaves = tree_flatten(batch)[0]
        for leaf in leaves:
            if not isinstance(leaf, _KEPT):
                raise TrainingError(
                    f"a batch holds a {type(leaf).__name__}, which cannot be kept for a later pass: expected tensors, "
                    "numbers and text in lists, tuples and dicts; or let every pass take a new batch (fresh=True)"
                )
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        exact = sum(_bytes(each) for each in tensors) * self.size / 1e6
        small = sum(each.numel() if _fits_bytes(each) else _bytes(each) for each in tensors) * self.size / 1e6
        if min(exact, small) > self.limit_mb:
            raise TrainingError(
                f"{self.size} batches take {small:,.0f} MB, even in 8 bits per value, but buffer_mb is "
                f"{self.limit_mb:,.0f}: expected a larger limit, a shorter delay, or a new batch for every pass "
                "(fresh=True)"
            )
        compact = exact > self.limit_mb
        self.batches[number] = tree_map(lambda leaf: _kept(leaf, compact), batch)
        while len(self.batches) > self.size:
            self.batches.popitem(last=False)

    def answered(self, number: int, part: int, answer: Any) -> None:
        """Keep the super-net's output for a part of a batch, if that batch is kept.

        Raises:
            TrainingError: more than the limit, for all batches together.
        """
        if number not in self.batches:
            return
        answers = self.batches[number]["teacher"]
        size = sum(_bytes(each) for each in tree_flatten(answer)[0] if isinstance(each, Tensor))
        megabytes = size * len(answers) * self.size / 1e6
        if megabytes > self.limit_mb:
            raise TrainingError(
                f"the super-net's outputs for {self.size} batches take {megabytes:,.0f} MB, but buffer_mb is "
                f"{self.limit_mb:,.0f}: expected a larger limit, a shorter delay, or teacher_share=0"
            )
        answers[part] = tree_map(lambda leaf: leaf.detach().to("cpu") if isinstance(leaf, Tensor) else leaf, answer)

    def get(self, number: int, device: torch.device) -> Any:
        """A kept batch, on a device."""

        def back(leaf: Any) -> Any:
            if isinstance(leaf, _Bytes):
                return leaf.back(device)
            return leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf

        return tree_map(back, self.batches[number], is_leaf=lambda leaf: isinstance(leaf, _Bytes))

    @property
    def megabytes(self) -> float:
        """The memory in use."""
        tensors = [tensor for batch in self.batches.values() for tensor in _tensors(batch)]
        return sum(_bytes(tensor) for tensor in tensors) / 1e6

    # -- for a checkpoint ---------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], Any]:
        """Tensors by name, and the rest as plain values for JSON; `put_state` is the inverse."""
        tensors: dict[str, Tensor] = {}
        plain = [[number, _described(batch, f"{number}", tensors)] for number, batch in self.batches.items()]
        return tensors, plain

    def put_state(self, tensors: Mapping[str, Tensor], plain: Any) -> None:
        self.batches = OrderedDict((number, _rebuilt(content, f"{number}", tensors)) for number, content in plain)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _fits_bytes(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 3


def _kept(leaf: Any, compact: bool) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if compact and _fits_bytes(leaf):
        return _Bytes.of(leaf)
    # Keeps the memory format: channels-last images stay channels-last.
    return leaf.detach().to("cpu", copy=True)


def _tensors(kept: Any) -> list[Tensor]:
    leaves = tree_flatten(kept, is_leaf=lambda leaf: isinstance(leaf, _Bytes))[0]
    found: list[Tensor] = []
    for leaf in leaves:
        if isinstance(leaf, _Bytes):
            found += [leaf.codes, leaf.low, leaf.step]
        elif isinstance(leaf, Tensor):
            found.append(leaf)
    return found


def _described(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, _Bytes):
        for part in ("codes", "low", "step"):
            tensors[f"{name}.{part}"] = getattr(value, part).contiguous()
        last = _channels_last(value.codes)
        return {"bytes": str(value.kind).removeprefix("torch."), "channels last": last}
    if isinstance(value, Tensor):
        tensors[name] = value.contiguous()
        return {"tensor": _channels_last(value)}
    if isinstance(value, Mapping):
        entries = enumerate(value.items())
        return {"dict": [[key, _described(each, f"{name}.{n}", tensors)] for n, (key, each) in entries]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_described(each, f"{name}.{n}", tensors) for n, each in enumerate(value)]}
    return {"value": value}


def _rebuilt(content: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> Any:
    if "bytes" in content:
        codes, low, step = (tensors[f"{name}.{part}"] for part in ("codes", "low", "step"))
        return _Bytes(_laid_out(codes, content["channels last"]), low, step, _kind(content["bytes"]))
    if "tensor" in content:
        return _laid_out(tensors[name], content["tensor"])
    if "dict" in content:
        return {key: _rebuilt(each, f"{name}.{n}", tensors) for n, (key, each) in enumerate(content["dict"])}
    for kind, make in (("tuple", tuple), ("list", list)):
        if kind in content:
            return make(_rebuilt(each, f"{name}.{n}", tensors) for n, each in enumerate(content[kind]))
    return content["value"]


def _kind(name: str) -> torch.dtype:
    kind = getattr(torch, name)
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"torch.{name} is not a dtype")
    return kind


def _channels_last(tensor: Tensor) -> bool:
    """Is it in channels-last layout? Losing it would change the summation order and rounding after a resume."""
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor

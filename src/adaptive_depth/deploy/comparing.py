"""An exported file compared with its network: every output at every depth."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batches import device_of, taken_from
from ..core.network import AdaptiveNetwork
from ..errors import ExportError
from ..modes import evaluating
from .inputs import Call, Example, another, as_given
from .session import Session

TOLERANCE = 1e-4  # of an output's standard deviation
_ROUNDING = 1e-6  # of its largest number: 8 float32 units in the last place
_AS_EXACT = 3.0  # times the network's own error in float32 against float64
_UNSURE = 1e-2  # standard deviations: a larger float32 error is no excuse
_OTHERS = 0.01  # share of the candidates that a network chooses by score

_TIES = "candidates with equal scores (before any training, say), "

OnProgress = Callable[[int, int, str], None]
_Outputs = dict[str, NDArray[Any]]
Tensors = tuple[Tensor, ...]  # of one input, in the order of the file's


def compare(session: Session, network: AdaptiveNetwork, example: Example, tell: OnProgress) -> None:
    """Check that a session returns what the network returns at every depth.

    Raises:
        ExportError: the first depth at which it does not.
    """
    inputs = inputs_of(session, example)
    with evaluating(network), torch.no_grad():
        for done, skip in enumerate(session.skips, 1):
            for x in inputs:
                found, wanted = _pair(session, network, example.call, x, skip)
                for name in wanted:
                    difference = _difference(found[name], wanted[name])
                    if difference <= TOLERANCE or _as_exact(
                        network, session, example.call, x, skip, name, found, wanted
                    ):
                        continue
                    what = f"its output {name!r} is" if name else "its outputs are"
                    raise ExportError(
                        f"the export does not compute what the network does at depth {skip}: {what} off by "
                        f"{difference:.1e} of their standard deviation ({TOLERANCE:.0e} is "
                        "allowed); nothing was written. Possible causes: a layer that draws random numbers or depends "
                        f"on the batch, {_TIES * _chooses(session)}or weights that are far out of range"
                    )
            tell(done, len(session.skips) + 1, "comparing every depth with the network")


def _as_exact(
    network: AdaptiveNetwork,
    session: Session,
    call: Call,
    x: Tensors,
    skip: str,
    name: str,
    found: _Outputs,
    wanted: _Outputs,
) -> bool:
    """Whether an output differs only by float32 rounding, like the network's own from float64.

    Scores of a trained detector are nearly all 0: rounding alone may be more than `TOLERANCE` of their deviation.
    """
    if session.artifact.detections is not None and session.artifact.detections.chosen:
        return False  # float64 may choose other candidates
    try:
        doubled = tuple(part.double() if part.is_floating_point() else part for part in x)
        # A copy, because `double` changes a module in place.
        exact = _outputs(copy.deepcopy(network).double(), call, doubled, skip, session.artifact.outputs)[name]
    except RuntimeError:  # the network insists on float32
        return False
    own, other = _difference(wanted[name], exact), _difference(found[name], exact)
    return own <= _UNSURE and other <= max(TOLERANCE, _AS_EXACT * own)


def _chooses(session: Session) -> bool:
    how = session.artifact.detections
    return how is not None and how.chosen


def inputs_of(session: Session, example: Example) -> list[Tensors]:
    """The example and, if the batch is free, a batch of another size and content."""
    if any(not each.shape or each.shape[0] is not None for each in session.artifact.takes):
        return [example.tensors]
    return [example.tensors, another(example, 3, pixels=session.artifact.detections is not None)]


def _pair(session: Session, network: AdaptiveNetwork, call: Call, x: Tensors, skip: str) -> tuple[_Outputs, _Outputs]:
    """The outputs of a session and of the network, by name; "" is a single one."""
    names, how = session.artifact.outputs, session.artifact.detections
    output = session(as_given(call, x), skip)
    found: _Outputs = output if names else {"": output}
    wanted = _outputs(network, call, x, skip, names)
    if how is not None and how.chosen and all(found[name].shape == wanted[name].shape for name in wanted):
        return _without_order(found, wanted, (how.boxes, how.scores))
    return found, wanted


def _outputs(network: AdaptiveNetwork, call: Call, x: Tensors, skip: str, names: Sequence[str]) -> _Outputs:
    on_device = [part.to(device_of(network)) for part in x]
    there = taken_from(call(network, on_device, skip=skip), names)
    return {name: part.double().cpu().numpy() for name, part in (there if names else {"": there}).items()}


def _without_order(found: _Outputs, wanted: _Outputs, names: Sequence[str]) -> tuple[_Outputs, _Outputs]:
    """Match each of a network's chosen candidates with the nearest one, except the few that only one side chose.

    If two score nearly the same, rounding decides which is chosen, or which comes first.
    """
    found = {name: part.copy() for name, part in found.items()}
    for image in range(len(wanted[names[0]])):
        rows = [_rows([outputs[name][image] for name in names], wanted, names) for outputs in (found, wanted)]
        apart = [np.abs(rows[0] - row).max(axis=1) for row in rows[1]]
        nearest = np.array([each.argmin() for each in apart])
        worst = np.argsort([-each.min() for each in apart])[: int(_OTHERS * len(apart))]
        for name in names:
            found[name][image] = found[name][image][nearest]
            found[name][image][worst] = wanted[name][image][worst]
    return found, wanted


def _rows(parts: Sequence[NDArray[Any]], wanted: _Outputs, names: Sequence[str]) -> NDArray[np.float64]:
    """All numbers of each candidate, in standard deviations of their output."""
    scaled = [part / (wanted[name].std() or 1.0) for part, name in zip(parts, names, strict=True)]
    return np.concatenate([part.reshape(len(part), -1) for part in scaled], axis=1)


def _difference(found: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """How far an output is off beyond rounding, in its standard deviations; infinite if the shapes differ.

    If all numbers are equal (a single one, say), it is relative to their magnitude.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    off, largest = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
    beyond = 0.0 if off <= _ROUNDING * largest else off  # nan stays nan
    return beyond / (float(wanted.std()) or largest or 1.0)

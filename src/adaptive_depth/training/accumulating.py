"""Gradients that a loop adds up over several batches, which are those of one pass only where the passes know of it."""

import sys
from typing import Any

from ..errors import TrainingError

_WAY = (
    "a step must be of one pass. Give one of this library all batches of a step, passes.load([passes.task.inputs(part) "
    "for part in parts]) (examples/accelerate_language_model.py), or leave gradient_accumulation_steps at 1 and load "
    "larger batches"
)


def check_steps_once() -> None:
    """Raise inside `accumulate` of accelerate where it holds a step back: other passes would be added to this one.

    Raises:
        TrainingError: as said.
    """
    state = _state()
    if state is not None and state.num_steps > 1 and not state.sync_gradients:
        raise TrainingError(
            f"passes(batch) inside accelerator.accumulate(...), with gradient_accumulation_steps={state.num_steps}: "
            f"it would leave steps out and add up the gradients of different sub-networks, and {_WAY}"
        )


def check_steps_for_each_item() -> None:
    """Raise where accelerate makes one step for several items; the Trainer of transformers does not tell it.

    Raises:
        TrainingError: as said.
    """
    state = _state()
    if state is not None and state.num_steps > 1:
        raise TrainingError(
            f"passes.over(loader) with gradient_accumulation_steps={state.num_steps}: each of its items is a step of "
            f"its own, and several would add up the gradients of different sub-networks; {_WAY}"
        )


def _state() -> Any:
    """What accelerate knows of accumulation in this process; None where no `Accelerator` was made."""
    kind = getattr(sys.modules.get("accelerate.state"), "GradientState", None)
    return kind() if kind is not None and kind._shared_state else None

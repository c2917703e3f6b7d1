"""Loops that accumulate gradients over several batches, which the passes must know to accumulate within one pass."""

import sys
from typing import Any

from ..errors import TrainingError

_WAY = (
    "a step must belong to one pass. Pass all batches of a step at once, passes.load([passes.task.inputs(part) "
    "for part in parts]) (examples/accelerate_language_model.py), or leave gradient_accumulation_steps at 1 and load "
    "larger batches"
)


def check_steps_once() -> None:
    """Raise inside accelerate's `accumulate` if it delays a step: other passes would be added to this one.

    Raises:
        TrainingError: in that case.
    """
    state = _state()
    if state is not None and state.num_steps > 1 and not state.sync_gradients:
        raise TrainingError(
            f"passes(batch) inside accelerator.accumulate(...), with gradient_accumulation_steps={state.num_steps}: "
            f"it would skip steps and add up the gradients of different sub-networks, but {_WAY}"
        )


def check_steps_for_each_item() -> None:
    """Raise if accelerate makes one step for several items (the Trainer of transformers does not tell accelerate).

    Raises:
        TrainingError: in that case.
    """
    state = _state()
    if state is not None and state.num_steps > 1:
        raise TrainingError(
            f"passes.over(loader) with gradient_accumulation_steps={state.num_steps}: each of its items is its "
            f"own step, and several would add up the gradients of different sub-networks; {_WAY}"
        )


def _state() -> Any:
    """What accelerate knows about accumulation in this process; None if no `Accelerator` was created."""
    kind = getattr(sys.modules.get("accelerate.state"), "GradientState", None)
    # Calling it without an `Accelerator` would create that state.
    return kind() if kind is not None and kind._shared_state else None

"""The quality, by a task, of every depth of a file whose outputs are not the network's: int8."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from ..batches import device_of, logits_in, on_device, with_outputs
from ..choose.tradeoffs import check_value
from ..core.network import AdaptiveNetwork
from ..errors import DataError, TrainingError
from ..modes import evaluating
from ..tasks import Task
from .artifact import Artifact

Images = NDArray[np.float32]
_TOGETHER = 10  # images of one calibration pass


def checked(images: Any, artifact: Artifact) -> Images:
    """Calibration images, as float32 `[samples, channels, height, width]`.

    Raises:
        DataError: another shape, no images, or non-finite numbers.
    """
    array = np.ascontiguousarray(images, dtype=np.float32)
    wanted = artifact.input_shape
    fits = array.ndim == len(wanted) and all(
        side in (None, size) for side, size in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits or not len(array):
        shape = ", ".join("any" if side is None else str(side) for side in wanted[1:])
        raise DataError(f"quantize received images of shape {list(array.shape)}: expected [samples, {shape}]")
    if not np.isfinite(array).all():
        raise DataError("quantize received images with non-finite numbers: expected numbers that fit a range")
    return array


def parted(images: Images) -> list[Images]:
    """The images in parts, as they pass through the network during calibration."""
    return np.array_split(images, max(1, len(images) // _TOGETHER))


def judge(
    artifact: Artifact,
    run: Callable[[Images, str], Any],
    network: AdaptiveNetwork,
    example: Images,
    labelled: Iterable[Any],
    task: Task,
    *,
    in_float: bool,
) -> Artifact:
    """A file's description with the quality of each of its depths.

    Arguments:
        artifact: the description so far.
        run: called with images and a skip; returns what a session over the file would.
        network: the source of the file.
        example: an input.
        labelled: batches of what the task takes; iterated once.
        task: provides the metric.
        in_float: also judge the float network on the same batches.

    Raises:
        DataError: no batch, or labels that do not fit.
    """
    with evaluating(network), torch.no_grad():
        like = network(torch.from_numpy(example).to(device_of(network)))

        def of_file(x: Tensor, skip: str) -> Any:
            found = run(x.float().numpy(), skip)
            if not artifact.outputs:
                return torch.from_numpy(found)
            return with_outputs(like, {name: torch.from_numpy(output) for name, output in found.items()})

        models = [of_file, *([_float(network)] if in_float else [])]
        accuracy, *more = _qualities(models, labelled, artifact.skips, task)
    return replace(artifact, accuracy=accuracy, quality=task.quality, float_accuracy=more[0] if more else None)


def _qualities(
    models: Sequence[Callable[[Tensor, str], Any]], labelled: Iterable[Any], skips: Sequence[str], task: Task
) -> list[dict[str, float]]:
    """A task's metric for each depth of some models; the batches are iterated once."""
    metrics: list[dict[str, Any]] = [{} for _ in models]
    for batch in labelled:
        x, y = task.taken_apart(
            tree_map(lambda part: torch.as_tensor(part) if isinstance(part, np.ndarray) else part, batch)
        )
        for model, found in zip(models, metrics, strict=True):
            for skip in skips if len(x) else ():  # a last batch may be empty
                try:
                    output = task.output(model(x, skip))
                    task.check(output, y)
                except TrainingError as error:
                    raise DataError(f"quantize measures with labels that do not fit: {error}") from error
                if skip not in found:
                    found[skip] = task.metric(output)
                task.measure(found[skip], output, y)
    if not metrics[0]:
        raise DataError("quantize received no labelled images: expected batches of images and labels, or None")
    values = [{skip: task.value(metric) for skip, metric in found.items()} for found in metrics]
    for found in values:
        for skip, value in found.items():  # files cannot store nan
            check_value(task.quality, f"{task.quality.noun} of {skip}, measured on labelled=,", value)
    return values


def _float(network: AdaptiveNetwork) -> Callable[[Tensor, str], Any]:
    device = device_of(network)
    cpu = torch.device("cpu")
    return lambda x, skip: on_device(logits_in(network(x.float().to(device), skip=skip)), cpu)

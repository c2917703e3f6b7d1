"""Logs a running training to TensorBoard, Weights & Biases or another of accelerate's trackers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from ..core.distributed import Distributed
from ..errors import TrainingError, one_line
from .history import Epoch, Progress
from .recipe import Recipe

_EVERY = 50  # steps between two values within an epoch
_WATCHED = ("lr", "loss", "accuracy", "base_loss", "base_accuracy", "images_per_s", "waiting")


class Tracking:
    """What `tracking` yields: pass `on_step` and `on_epoch` to `train`."""

    def __init__(self, trackers: Sequence[Any]) -> None:
        self.trackers, self.step = trackers, 0

    def on_step(self, progress: Progress) -> None:
        """Means over the epoch so far (`running/...`), every few steps."""
        self.step = progress.step
        if self.trackers and progress.step % _EVERY == 0:
            self._log("running", progress.so_far())

    def on_epoch(self, epoch: Epoch) -> None:
        """The finished epoch (`epoch/...`) and its validation (`validation/FFFF`)."""
        self._log("epoch", epoch)

    def _log(self, kind: str, epoch: Epoch) -> None:
        values = {f"{kind}/{name}": getattr(epoch, name) for name in _WATCHED if getattr(epoch, name) is not None}
        values |= {f"validation/{skip}": accuracy for skip, accuracy in (epoch.validation or {}).items()}
        for tracker in self.trackers:
            tracker.log(values, step=self.step)


@contextmanager
def tracking(names: Sequence[str], folder: Path, recipe: Recipe) -> Iterator[Tracking]:
    """Log a training to one or more trackers; in the first process only.

    Arguments:
        names: `"tensorboard"`, `"wandb"`, or another one of accelerate's.
        folder: trackers that write files put them under its `trackers/`; its name is the run's.
        recipe: logged with the run.

    Raises:
        TrainingError: an unknown tracker, or one that is not installed or cannot start.

    Example:
        >>> with tracking([], Path("runs/digits"), Recipe()) as watch:
        ...     pass  # train(..., on_step=watch.on_step, on_epoch=watch.on_epoch)
    """
    with ExitStack() as stack:

        def start(name: str) -> Any:
            tracker = _start(name, folder, recipe)
            stack.callback(tracker.finish)
            return tracker

        yield Tracking([start(name) for name in dict.fromkeys(names)] if Distributed().is_first else [])


def _start(name: str, folder: Path, recipe: Recipe) -> Any:
    if name not in LOGGER_TYPE_TO_CLASS:
        raise TrainingError(f"tracker {name!r} is unknown: expected one of {', '.join(LOGGER_TYPE_TO_CLASS)}")
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    PartialState()  # accelerate's trackers need it to know the first process
    try:
        if name == "wandb":
            (folder / "trackers").mkdir(parents=True, exist_ok=True)
            tracker = kind("adaptive-depth", name=folder.name, dir=str(folder / "trackers"))
        elif kind.requires_logging_directory:
            tracker = kind(name, folder / "trackers")
        else:
            tracker = kind("adaptive-depth")
        tracker.start()
        tracker.store_init_configuration({key: _plain(value) for key, value in recipe.to_json().items()})
    except ImportError as error:
        raise TrainingError(f"tracker {name!r} is not installed ({one_line(error)}): pip install {name}") from error
    except Exception as error:  # trackers raise errors of any kind
        raise TrainingError(f"tracker {name!r} cannot start: {one_line(error)}") from error
    return tracker


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)

"""A training loop for adaptive networks, and for plain ones to compare them with."""

import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..batches import device_of, on_device
from ..core.distributed import Distributed, gather
from ..core.network import AdaptiveNetwork
from ..errors import CheckpointError, DataError, TrainingError
from ..files import writing
from ..measure.evaluation import evaluate
from ..modes import modes_restored_on_error
from ..tasks import Classification, Detection, Heads, Task, as_task
from ..tasks.known import TASKS
from . import state
from .history import Epoch, History, Progress
from .interrupting import seeded, stopping
from .meter import Meter
from .passes import OnePass, Passes
from .preparing import check, learning_rates, optimiser, prepared
from .recipe import ALGORITHM_1, Recipe
from .schedule import Due
from .self_distillation import SelfDistillation
from .steps import Loader, Step, distil, supervise

# -- the loop ---------------------------------------------------------------------------------------------------


def train(
    network: nn.Module,
    batches: Loader,
    recipe: Recipe | None = None,
    *,
    task: Any = None,
    step: Step | None = None,
    validation: Any = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    **changes: Any,
) -> History:
    """Train a network, adaptive or plain, as a recipe says; only weights decay, not norms or biases.

    Started by `torchrun` or `accelerate launch`, all processes train together: gradients and running statistics are
    averaged, and each process brings its own share of the batches.

    Arguments:
        network: trained in place (`network.to(device)` before); in eval mode afterwards, with the averaged weights if
            the recipe asks for them (`ema`).
        batches: pairs of input `[batch, ...]` and labels `[batch]`, or dicts with `"labels"`, such as a DataLoader;
            with `accumulate`, each is one part of a step.
        recipe: how to train; by default `Recipe()`.
        task: what the network is for: a task of `adaptive_depth.tasks`, a dict of them for several heads, or an
            unambiguous criterion of torch; if None, what the model's class implies (`as_task`), else classification
            with the recipe's label smoothing.
        step: what to do with a batch, one optimiser step each; by default the recipe's `passes` for an adaptive
            network, `supervise(network)` for a plain one.
        validation: batches to evaluate an adaptive network on after the last epoch, or with `validate_every=1` after
            each; each of several processes brings its share.
        folder: where checkpoints are written; without it there are none.
        resume: resume from the newest checkpoint in `folder`, if there is one.
        on_step: called after each step, in the first process.
        on_epoch: called with each finished epoch, in the first process.
        **changes: fields of the recipe to change, such as `epochs=5, lr=0.05`.

    Raises:
        TrainingError: an invalid recipe, labels out of range, or a loss that is not finite.
        DataError: no batches, or batches without labels.
        CheckpointError: a checkpoint that cannot be written or resumed from; a folder that another training writes to.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> train(net, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))], epochs=2).epochs[-1].epoch
        2
    """
    for name in ("criterion", "objective", "loss"):
        if name in changes:
            raise TrainingError(f"train takes no {name}=: pass task=, a criterion or a task of adaptive_depth.tasks")
    recipe = (recipe or Recipe()).changed(changes)
    check(network, batches, recipe, kept=folder is not None)
    if resume and folder is None:
        raise TrainingError("resume=True without a folder: pass the folder that holds the checkpoints")
    folder = None if folder is None else Path(folder)
    learned = _task(task, recipe, network)
    if validation is not None:
        if not isinstance(network, AdaptiveNetwork):
            raise TrainingError(
                f"validation= is for an adapted network, but train received a plain {type(network).__name__}: leave it "
                "out, and measure the network with adaptive_depth.measure.evaluation.evaluate_one(model, batches)"
            )
        if not learned.can_judge:
            raise TrainingError(
                f"validation= needs a metric, which {task!r} does not determine: pass a task, such as "
                "adaptive_depth.tasks.Classification(criterion), or leave validation out"
            )
        _try_metric(network, validation, learned)
    seed = None if recipe.seed is None else recipe.seed + Distributed().index  # so that processes augment differently
    with (
        _writing(folder),
        seeded(seed),
        stopping(folder is not None) as stop,
        prepared(network, recipe),
        modes_restored_on_error(network),
    ):
        run = _Run(network, batches, recipe, learned, step, folder)
        if resume:
            run.resume()
        while run.epoch <= recipe.epochs:
            run.train_epoch(stop, on_step)
            run.end_epoch(validation)
            if on_epoch and run.processes.is_first:
                on_epoch(run.history[-1])
            run.save()
    return run.finish()


@contextmanager
def _writing(folder: Path | None) -> Iterator[None]:
    """Lock the folder of checkpoints for this training; only its first process writes there."""
    if folder is None or not Distributed().is_first:
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(writing(folder, "train", CheckpointError, patience=0))
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be written ({error}): choose another folder") from error
        yield


def _try_metric(network: AdaptiveNetwork, validation: Any, task: Task) -> None:
    """Try a custom metric on one batch before the training: an error at the end would cost all of it.

    Likewise the metric of a criterion that is ambiguous until a batch shows it, and that of boxes, which needs an
    extra package.
    """
    judging = task.tasks[task.judged_by] if isinstance(task, Heads) else task
    ready = type(task) in TASKS and type(judging) in TASKS and not isinstance(judging, Detection)
    if ready and "metric" not in vars(judging):
        return
    with seeded(0), warnings.catch_warnings():  # the training's random numbers stay unaffected
        warnings.simplefilter("ignore")  # on one batch a metric may warn of missing classes
        try:
            evaluate(network, islice(validation, 1), [network.skips[0]], task=task)
        except DataError:  # such as an unreadable image: reported when it is needed
            return
        except TrainingError as error:
            raise TrainingError(f"validation= needs a metric; fix it, or leave validation out: {error}") from error


def default_task(recipe: Recipe) -> Classification:
    """Classification as a recipe specifies it."""
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return Classification(criterion, temperature=recipe.temperature)


def _task(given: Any, recipe: Recipe, network: nn.Module) -> Task:
    """What was given, or the default."""
    model = network.model if isinstance(network, AdaptiveNetwork) else network
    if given is None:
        given = as_task(None, model)
        if type(given) is Classification:
            return default_task(recipe)
    smoothed = getattr(getattr(given, "criterion", given), "label_smoothing", 0.0)
    if recipe.label_smoothing != smoothed and recipe.label_smoothing:
        raise TrainingError(
            f"label_smoothing={recipe.label_smoothing:g} applies to the default task, but another one was given: pass "
            "it to that task's criterion, too, nn.CrossEntropyLoss(label_smoothing=...), or leave it out of the recipe"
        )
    return as_task(given, model)


_NAMED = 16  # samples, in an error


class _Run:
    """A running training: the state that changes from step to step."""

    def __init__(
        self,
        network: nn.Module,
        batches: Loader,
        recipe: Recipe,
        task: Task,
        step: Step | None,
        folder: Path | None,
    ) -> None:
        self.given, self.batches, self.recipe, self.task, self.folder = network, batches, recipe, task, folder
        self.processes, self.device = Distributed(), device_of(network)
        self.part_steps = len(batches) // recipe.accumulate  # in an epoch
        # FSDP works on a copy, because it cannot be undone on a network.
        self.spread = recipe.fsdp and self.processes.count > 1
        self.network = copy.deepcopy(network) if self.spread else network
        self.passes: Passes | None = None  # of a schedule; without one, each batch is one step
        self.ema: ModelEmaV3 | None = None
        self.wrapped, self.step = self._prepare(step)
        self.optimizer = optimiser(self.network, recipe)
        self.schedule = learning_rates(self.optimizer, recipe, self._steps_after)
        self.scaler = torch.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.epoch, self.done, self.batch = 1, 0, 0  # the current epoch, steps in all, batches of this epoch
        self.history: list[Epoch] = []
        self.best: float | None = None  # the best validation so far, where higher is better
        self.meter = self._new_meter()
        self.at_start: dict[str, Any] | None = None  # random numbers as they were before this epoch's first batch

    def _new_meter(self) -> Meter:
        return Meter(self.task)

    def _steps_after(self, epochs: float) -> int:
        """Optimiser steps after this many epochs."""
        batches = round(epochs * self.part_steps)
        return self.passes.schedule.steps(batches) if self.passes else batches

    def _prepare(self, step: Step | None) -> tuple[nn.Module, Step | None]:
        """The module that processes train together, and the step of a batch (None with a schedule of passes)."""
        recipe, network = self.recipe, self.network
        if step is None and isinstance(network, AdaptiveNetwork) and recipe.passes != ALGORITHM_1:
            self.passes = self._passes(network)
        self.ema = self._averaged()
        if step is not None:
            return network, step
        if not isinstance(network, AdaptiveNetwork):
            wrapped = self._wrap(network)
            return wrapped, supervise(torch.compile(wrapped) if recipe.compile else wrapped, self.task)
        if self.passes is not None:
            module = self.passes.module
            # Each pass leaves out other parameters, the same in all processes, so the gradients that exist are
            # averaged afterwards, without a wrapper that searches the graph for unused ones.
            return (self._wrap(module) if self.spread else module), None
        objective = SelfDistillation(
            network,
            self.task,
            alpha=recipe.alpha,
            temperature=recipe.temperature,
            feature_weight=recipe.feature_weight,
            learn_from=recipe.learn_from,
            teacher=recipe.teacher,
            student=recipe.student,
            distil_share=recipe.distil_share,
            keep_scale=recipe.keep_scale,
        )
        if recipe.compile:
            objective.compile()
        if recipe.low_memory:
            return objective, distil(objective, low_memory=True)
        wrapped = self._wrap(objective)
        return wrapped, distil(wrapped)

    def _passes(self, network: AdaptiveNetwork) -> Passes:
        recipe = self.recipe
        schedule = recipe.schedule_of(recipe.epochs * self.part_steps, self.part_steps)
        if len(network.stages) == 1 and recipe.passes == Recipe.passes:
            schedule = replace(schedule, pattern="SB")  # the default was not chosen, so adapt it
        passes = Passes(network, self.task, schedule, buffer_mb=recipe.buffer_mb)
        if recipe.compile:
            passes.module.compile()
        return passes

    def _averaged(self) -> ModelEmaV3 | None:
        """The averaged weights, if the recipe asks for them: over as many images for every schedule."""
        decay, epochs = self.recipe.ema, self.recipe.epochs
        if decay is None:
            return None
        steps = self._steps_after(epochs)
        decay **= epochs * self.part_steps / max(1, steps)
        # `foreach` cannot mix the sharded parameters of FSDP with whole buffers.
        return ModelEmaV3(self.network, decay=decay, foreach=not self.spread)

    def _wrap(self, module: nn.Module) -> nn.Module:
        if not self.spread:
            return self.processes.wrap(module)
        self.processes.shard(module, self.network)
        if self.ema is not None:
            self.processes.shard(self.ema.module, self.ema.module)
        return module

    # -- an epoch -----------------------------------------------------------------------------------------------

    def train_epoch(self, stop: threading.Event, on_step: Callable[[Progress], None] | None) -> None:
        parts = self.recipe.accumulate
        self.network.train()
        if callable(set_epoch := getattr(self.batches, "set_epoch", None)):
            set_epoch(self.epoch)
        if self.passes is not None:
            self._make_passes(self.passes.left(), stop, on_step)  # of an interrupted batch
        loaded: list[tuple[Any, Any]] = []
        for batch in self._remaining(parts * self.part_steps):
            x, y = self._taken_apart(batch)
            part, self.batch = self.batch % parts, self.batch + 1
            if self.passes is None:
                self._train_part(x, y, part)
                if self.batch % parts == 0:
                    self._update(stop, on_step)
            else:
                loaded.append((x, y))
                if self.batch % parts == 0:
                    self._make_passes(self.passes.load(loaded), stop, on_step)
                    loaded = []

    def _make_passes(
        self, dues: Iterator[Due], stop: threading.Event, on_step: Callable[[Progress], None] | None
    ) -> None:
        """An optimiser step for each pass; a training can be interrupted between them."""
        assert self.passes is not None
        passes = self.passes
        for due in dues:
            items = passes.items(due)
            self.optimizer.zero_grad()
            for item in items:
                last = item["part"] == len(items) - 1
                try:
                    with self.processes.without_average(self.wrapped, not last), self._precision():
                        result = passes.learn(item, self.wrapped)
                        self._backward(result.loss)
                except TrainingError as error:
                    raise TrainingError(f"{error}{self._where()}") from error
                self.meter.add_pass(due.letter, result.loss, result.output, item["y"])
            passes.done()
            self._update(stop, on_step)

    def _progress(self) -> Progress:
        epoch, epochs, meter = self.epoch, self.recipe.epochs, self.meter
        return Progress(epoch, epochs, self.done, self._steps_after(epochs), lambda: meter.epoch(epoch, None))

    def _remaining(self, number: int) -> Iterator[Any]:
        """The batches of this epoch, up to a number; after a resume in the middle, those that are left.

        The earlier batches are drawn again, from the random numbers of that time, so that the later ones are what they
        would have been.
        """
        if self.batch == number:  # only the validation is left
            return
        now = state.random_state(self.device)
        if self.batch:
            state.put_random_state(self.at_start or now, self.device)
        else:
            self.at_start, self.meter = now, self._new_meter()
        batches = iter(self.batches)
        if self.batch:
            for _ in islice(batches, self.batch):
                pass
            state.put_random_state(now, self.device)
        for _ in range(number - self.batch):
            with self.meter.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _taken_apart(self, batch: Any) -> tuple[Any, Any]:
        x, y = on_device(self.task.taken_apart(batch), self.device)
        if self.recipe.channels_last:
            x = tree_map_only(Tensor, _channels_last, x)
        return x, y

    def _precision(self) -> AbstractContextManager[Any]:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self.device.type, kind, enabled=kind is not None)

    def _backward(self, loss: Tensor) -> None:
        with torch.autocast(self.device.type, enabled=False):
            self.scaler.scale(loss / self.recipe.accumulate).backward()

    def _train_part(self, x: Any, y: Tensor, part: int) -> None:
        if part == 0:
            self.optimizer.zero_grad()
        assert self.step is not None
        apart = self.processes.without_average(self.wrapped, part < self.recipe.accumulate - 1)
        try:
            with apart, self._precision():
                result = self.step(x, y, self._backward)
        except TrainingError as error:
            raise TrainingError(f"{error}{self._where()}") from error
        self.meter.add(result, y)

    def _where(self) -> str:
        """The place of an error in a training: step, learning rate, the samples if known, the last checkpoint."""
        batch, which, kept = self.batch - 1, "", state.newest(self.folder) if self.folder else None
        last = f"; the last good checkpoint is {kept})" if kept else ")"
        if self.passes is not None and self.passes.waiting:
            due = self.passes.waiting[0]
            which = f"pass {due.letter}, "
            # The first part of an accumulated batch; negative if the pass learns from a batch of an earlier epoch.
            batch = (due.batch - (self.epoch - 1) * self.part_steps) * self.recipe.accumulate
        lr = self.optimizer.param_groups[0]["lr"]
        step = f" (epoch {self.epoch}, step {self.done + 1}, learning rate {lr:.3g}"
        if batch < 0:
            return f"{step}, {which}a batch of the previous epoch{last}"
        said = f"{step}, {which}batch {batch + 1} of {len(self.batches)}"
        known = getattr(self.batches, "indices", None)
        if callable(known):
            numbers: list[int] = list(known(batch))  # type: ignore[arg-type]
            more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
            said += f", samples {numbers[:_NAMED]}{more}"
        return f"{said}{last}"

    def _update(self, stop: threading.Event, on_step: Callable[[Progress], None] | None) -> None:
        apart = self.processes.count > 1 and not self.spread
        if apart and isinstance(self.wrapped, SelfDistillation | OnePass):  # no DDP averages them
            self.processes.average_gradients(self.network.parameters())
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
        self.meter.lr = self.optimizer.param_groups[0]["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        self.schedule.step_update(self.done)
        if self.ema is not None:
            self.ema.update(self.network)
        if on_step and self.processes.is_first:
            on_step(self._progress())
        self._keep(stop)

    def _keep(self, stop: threading.Event) -> None:
        every = self.recipe.checkpoint_every
        if self.processes.any(stop.is_set(), self.device):
            self.save()
            where = (
                f"; a checkpoint of step {self.done} is in {self.folder}: continue with resume" if self.folder else ""
            )
            raise KeyboardInterrupt(f"asked to stop{where}")
        if every and self.done % every == 0:
            self.save()

    def end_epoch(self, validation: Any) -> None:
        told = self.meter.epoch(self.epoch, self.processes)  # before the validation, whose time does not count
        self.processes.average_statistics(self.network)
        if self.ema is not None:
            self.processes.average_statistics(self.ema.module)
        last = self.epoch == self.recipe.epochs
        every = self.recipe.validate_every
        measured = None
        if (
            validation is not None
            and isinstance(self.network, AdaptiveNetwork)
            and (last or (every and self.epoch % every == 0))
        ):
            averaged = self.settled()
            assert isinstance(averaged, AdaptiveNetwork)
            skips = self.recipe.validate or (averaged.skips[0], averaged.skips[-1])
            self.save()  # so that a failing validation does not cost the epoch
            measured = _finite(evaluate(averaged, validation, skips, task=self.task, across_processes=True))
        self.history.append(replace(told, validation=measured))
        self.epoch, self.batch = self.epoch + 1, 0

    def finish(self) -> History:
        self.optimizer.zero_grad()
        settled = self.settled()
        if settled is not self.given:
            self.given.load_state_dict(settled.state_dict())
        self.given.eval()
        return History(tuple(self.history))

    def settled(self) -> nn.Module:
        """The network as it would be saved now: with averaged weights if there are any, and gathered."""
        source = self.network if self.ema is None else self.ema.module
        if self.spread:
            self.given.load_state_dict({name: gather(tensor) for name, tensor in source.state_dict().items()})
        return self.given if self.spread else source

    # -- checkpoints --------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Save everything that determines the rest of the training; the newest checkpoints and the best are kept."""
        if self.folder is None:
            return
        self.processes.average_statistics(self.network)
        first, tensors, rest, extra = self.processes.is_first, {}, {}, {}
        if first or self.spread:  # gathering shards takes all processes, keeping them only one
            numbers, rest = state.numbers_of(self.optimizer, keep=first)
            tensors, extra = state.state_of_module(self.network, "network.", keep=first)
            tensors |= {f"optimizer.{name}": value for name, value in numbers.items()}
        if self.ema is not None:
            self.processes.average_statistics(self.ema.module)
            if first or self.spread:
                tensors |= state.state_of_module(self.ema.module, "ema.", keep=first)[0]
        facts = {
            "recipe": self.recipe.to_json(),
            "epoch": self.epoch,
            "step": self.done,
            "batch": self.batch,
            "batches": len(self.batches),
            "meters": self.processes.all_gather(self.meter.to_json()),
            "lr": self.meter.lr,
            "optimizer": rest,
            "scaler": self.scaler.state_dict(),
            "random": self.processes.all_gather(state.random_state(self.device)),
            "random_at_start": self.processes.all_gather(self.at_start if self.batch else None),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "extra_state": extra,
        }
        if self.passes is not None:
            kept, facts["passes"] = zip(*self.processes.all_gather(self.passes.state()), strict=True)
            tensors |= {f"passes.{n}.{name}": value for n, own in enumerate(kept) for name, value in own.items()}
        if not first:
            return
        ended = self.history and self.batch == 0
        measured = sum((self.history[-1].validation or {}).values()) if ended else 0.0
        score = self.task.quality.gain(measured, 0.0)
        if ended and (self.best is None or score > self.best):
            self.best = facts["best"] = score
            state.save_state(self.folder, "best", tensors, facts)
        state.save_state(self.folder, f"step-{self.done:08}", tensors, facts)
        state.forget_old(self.folder, self.recipe.keep)

    def resume(self) -> None:
        assert self.folder is not None
        path = state.newest(self.folder)
        if path is None:
            return
        tensors, facts = state.load_state(path)
        theirs, ours = facts["recipe"], self.recipe.to_json()
        if "passes" not in theirs:  # written by version 0.1
            theirs = {**Recipe(passes=ALGORITHM_1, keep_scale=False).to_json(), **theirs}
        changed = [name for name in ours if theirs.get(name) != ours[name] and name not in _FREE_TO_CHANGE]
        if changed:
            told = ", ".join(f"{name}: {theirs.get(name)!r} there, {ours[name]!r} now" for name in changed)
            raise CheckpointError(f"{path} has another recipe ({told}): resume with the same one, or start again")
        there, now = (len(facts["random"]), facts["batches"]), (self.processes.count, len(self.batches))
        if there != now:
            raise CheckpointError(
                f"{path} is from {there[0]} processes with epochs of {there[1]} batches, but there are {now[0]} with "
                f"{now[1]} now: resume with the same data and number of processes"
            )
        if facts["epoch"] > self.recipe.epochs + 1:
            raise CheckpointError(
                f"{path} is from epoch {facts['epoch']}, but the recipe has {self.recipe.epochs} epochs"
            )
        with state.put_back(path):
            self._put(tensors, facts)

    def _put(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        state.put_state(self.network, tensors, "network.", facts.get("extra_state"))
        if self.ema is not None:
            state.put_state(self.ema.module, tensors, "ema.")
        own = {
            name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")
        }
        state.put_numbers(self.optimizer, own, facts["optimizer"])
        self.scaler.load_state_dict(facts["scaler"])
        self.epoch, self.done, self.batch, self.best = (facts[name] for name in ("epoch", "step", "batch", "best"))
        self.history = list(History.from_json(facts["history"]).epochs)
        self.meter.lr = facts["lr"]
        self.meter.put(facts["meters"][self.processes.index], self.device)
        self.at_start = facts["random_at_start"][self.processes.index]
        if self.passes is not None:
            mine = f"passes.{self.processes.index}."
            kept = {name.removeprefix(mine): value for name, value in tensors.items() if name.startswith(mine)}
            self.passes.put_state(kept, facts["passes"][self.processes.index])
        state.put_random_state(facts["random"][self.processes.index], self.device)


def _finite(measured: Mapping[str, float]) -> dict[str, float] | None:
    """The finite values of a custom metric: JSON holds no others."""
    if strange := {skip: value for skip, value in measured.items() if not math.isfinite(value)}:
        warnings.warn(f"the metric of the validation is not finite, {strange}: left out of the history", stacklevel=2)
    return {skip: value for skip, value in measured.items() if skip not in strange} or None


_FREE_TO_CHANGE = ("validate_every", "validate", "checkpoint_every", "keep", "calibrate", "skip_damaged")


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

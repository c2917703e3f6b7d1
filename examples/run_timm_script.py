"""timm's own training script trains all depths of a network: the script as it is, with all of its options.

    git clone https://github.com/huggingface/pytorch-image-models
    python examples/run_timm_script.py pytorch-image-models/train.py --folder runs/network \\
        --data-dir images --model resnet50 --batch-size 64 --epochs 150

The first argument is your copy of train.py; `--passes`, `--delay` and `--folder` are read here, everything else by
train.py. Its classification task becomes a schedule of passes (`--passes "algorithm 1"`: the paper's objective), and
its training loader hands out one batch for each pass. Its validation is of the super-net. At the end all depths are
calibrated, with averaged weights where there are any (`--model-ema`), and saved in `--folder`: `ad.load(folder)`, with
an instance of the model where `--model-kwargs` or the like shaped it.

Several processes are started by `torchrun --nproc-per-node 2 examples/run_timm_script.py ...`. Leave
`--grad-accum-steps` at 1, and `--sched-on-updates` out: it would take all epochs for as long as the first. `--resume`
continues with the batches that wait for a later pass; they are part of each checkpoint, so keep few
(`--checkpoint-hist 1`). Averaged weights take 2.5 steps for each batch: `--model-ema-decay` is for a step.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import timm.data
import timm.task
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training.timm_task import StepLoader, TimmTask, as_task_of_timm


class Adapted:
    """Stands where train.py looks for timm's classification task and its loaders.

    Arguments:
        schedule: which sub-network learns when; None is Algorithm 1.
    """

    def __init__(self, schedule: ad.Schedule | None) -> None:
        self.schedule = schedule
        self.task: TimmTask | None = None
        self.loader: StepLoader | None = None  # of the training; train.py makes it before the task
        self._create_loader = timm.data.create_loader

    def create_loader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        loader = self._create_loader(*args, is_training=is_training, **kwargs)
        if not is_training:
            return loader
        self.loader = StepLoader(loader, self.task)
        return self.loader

    def create_task(
        self, model: nn.Module, criterion: Any = None, criterion_kwargs: Any = None, device: Any = None, **kwargs: Any
    ) -> TimmTask:
        if criterion is None:
            criterion = timm.task.create_classification_loss(**(criterion_kwargs or {})).to(device)
        network, task = ad.adapt(model), as_task_of_timm(criterion)
        objective = ad.Passes(network, task, self.schedule) if self.schedule else ad.SelfDistillation(network, task)
        self.task = TimmTask(objective, device=device, **kwargs)
        if self.loader is not None:
            self.loader.task = self.task
        return self.task


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train all depths of a network with timm's train.py.",
        usage="%(prog)s TRAIN.PY [--passes P] [--delay N] [--folder F] [options of train.py]",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--passes", default="SBSBR", help="one round of the schedule, or 'algorithm 1'")
    parser.add_argument("--delay", type=int, help="of the schedule, in batches")
    parser.add_argument("--folder", type=Path, help="for the network")
    # Not an argument of the parser, which would take the value of some option of train.py for it.
    script = sys.argv[1] if len(sys.argv) > 1 else ""
    if not Path(script).is_file():
        parser.error(f"the first argument is {script!r}: expected a file, your copy of timm's train.py")
    options, others = parser.parse_known_args(sys.argv[2:])

    adapted = Adapted(None if options.passes == "algorithm 1" else ad.Schedule(options.passes, options.delay))
    timm.data.create_loader, timm.task.ClassificationTask = adapted.create_loader, adapted.create_task  # type: ignore[misc]
    sys.argv = [script, *others]
    runpy.run_path(script, run_name="__main__")

    if adapted.task is not None and adapted.loader is not None and os.environ.get("RANK", "0") == "0":
        network = adapted.task.get_eval_model(ema=adapted.task.has_ema())
        adapted.loader.mixup_enabled = False  # statistics are those of plain images
        ad.calibrate(network, adapted.loader.batches)
        if options.folder:
            ad.save(network, options.folder)


if __name__ == "__main__":
    main()

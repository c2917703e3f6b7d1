"""Residual networks whose depth is chosen at run time.

`__init__.pyi` lists the public names, in the order of the pipeline. A name is imported when it is used for the first
time: values that need no torch, and the command line's help, do not wait for it.
"""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# Names of version 0.1 that are not listed any more: what calls return, and parts that few programs build themselves.
# They stay, so that older programs run; new ones find them in their rooms.
_older, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "analysis.values": ["Analysis", "BlockAnalysis", "NormAnalysis", "StageAnalysis"],
        "choose.costs": ["Cost", "Saving"],
        "choose.tradeoffs": ["Choice", "Row"],
        "deploy.torch.programs": ["plain_state_dict"],
        "errors": [
            "ArtifactError",
            "BudgetError",
            "CheckpointError",
            "DataError",
            "ExportError",
            "MeasurementError",
            "ModelError",
            "SkipError",
            "StagesError",
            "TrainingError",
        ],
        "governor.decisions": ["Decision"],
        "governor.governor": ["replay"],
        "plan": ["Run", "families"],
        "skip": ["all_skips", "parse_skip"],
        "tasks.classification": ["distillation_loss"],
        "training.history": ["Epoch", "History", "Progress"],
        "training.meter": ["StepResult"],
        "training.passes": ["OnePass", "PassResult"],
        "training.recipe": ["recipe_names"],
        "training.self_distillation": ["Losses", "feature_loss"],
        "training.steps": ["distil", "supervise"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("adaptive-depth")
    try:
        return _named(name)
    except ModuleNotFoundError as error:
        from .packages import missing

        if (told := missing(error, f"adaptive_depth.{name}")) is None:
            raise
        raise told from error


def _named(name: str) -> Any:
    try:
        return _public(name)
    except AttributeError:
        return _older(name)

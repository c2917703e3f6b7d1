"""Residual networks whose depth is chosen at run time. The public names, in the order of the pipeline."""

from .calibration import calibrate
from .checkpoint import load, save
from .errors import (
    AdaptiveDepthError,
    BudgetError,
    CheckpointError,
    DataError,
    ModelError,
    SkipError,
    StagesError,
    TrainingError,
)
from .evaluation import evaluate
from .models import create_model
from .network import AdaptiveNetwork, adapt
from .skip import all_skips, parse_skip
from .stages import Stage, Stages, families, family, find_stages
from .training.self_distillation import Losses, SelfDistillation, distillation_loss, feature_loss

__all__ = [
    "AdaptiveDepthError",
    "AdaptiveNetwork",
    "BudgetError",
    "CheckpointError",
    "DataError",
    "Losses",
    "ModelError",
    "SelfDistillation",
    "SkipError",
    "Stage",
    "Stages",
    "StagesError",
    "TrainingError",
    "adapt",
    "all_skips",
    "calibrate",
    "create_model",
    "distillation_loss",
    "evaluate",
    "families",
    "family",
    "feature_loss",
    "find_stages",
    "load",
    "parse_skip",
    "save",
]

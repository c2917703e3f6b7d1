# The public names, in the order of the pipeline. Each is imported when it is used for the first time.

# a model, and the plan for it
from .models import create_model
from .weights import load_weights
from .plan import Run, Stage, Stages, families, family

# a network of 2^N depths
from .skip import all_skips, parse_skip
from .core.network import AdaptiveNetwork
from .core.adapting import adapt, find_stages

# training it
from . import tasks
from .tasks.classification import distillation_loss
from .training.schedule import Schedule
from .training.passes import OnePass, PassResult, Passes
from .training.self_distillation import Losses, SelfDistillation, feature_loss
from .training.recipe import Recipe, load_recipe, recipe_names
from .training.history import Epoch, History, Progress
from .training.meter import StepResult
from .training.steps import distil, supervise
from .training.loop import train
from .measure.calibration import calibrate

# measuring and choosing
from .measure.evaluation import evaluate
from .choose.costs import Cost, Profile, Saving
from .measure.profiling import profile
from .choose.tradeoffs import Choice, Row, TradeOffs, tradeoffs

# why it works, on this network
from .analysis.values import Analysis, BlockAnalysis, NormAnalysis, StageAnalysis
from .analysis.rationale import analyze
from .analysis.activation_maps import class_activation_maps

# looking at it
from .plotting import plot_maps, plot_tradeoffs, plot_training, plot_transformations
from .report import report_page

# on the device
from .preprocessing import Preprocessing
from .deploy.artifact import Artifact
from .deploy.exporting import export_network, quantize_network
from .deploy.torch.programs import plain_state_dict
from .deploy.session import Session, open_session
from .deploy.preparing import prepare
from .governor.decisions import Decision
from .governor.governor import Governor, replay

# keeping it
from .core.saving import load, save
from .core.reference import load_reference

# what can go wrong
from .errors import (
    AdaptiveDepthError,
    ArtifactError,
    BudgetError,
    CheckpointError,
    DataError,
    ExportError,
    MeasurementError,
    ModelError,
    SkipError,
    StagesError,
    TrainingError,
)

__all__ = [
    "create_model",
    "load_weights",
    "Run",
    "Stage",
    "Stages",
    "families",
    "family",
    "find_stages",
    "all_skips",
    "parse_skip",
    "AdaptiveNetwork",
    "adapt",
    "tasks",
    "distillation_loss",
    "Schedule",
    "OnePass",
    "PassResult",
    "Passes",
    "Losses",
    "SelfDistillation",
    "feature_loss",
    "Recipe",
    "load_recipe",
    "recipe_names",
    "Epoch",
    "History",
    "Progress",
    "StepResult",
    "distil",
    "supervise",
    "train",
    "calibrate",
    "evaluate",
    "Cost",
    "Profile",
    "Saving",
    "profile",
    "Choice",
    "Row",
    "TradeOffs",
    "tradeoffs",
    "Analysis",
    "BlockAnalysis",
    "NormAnalysis",
    "StageAnalysis",
    "analyze",
    "class_activation_maps",
    "plot_maps",
    "plot_tradeoffs",
    "plot_training",
    "plot_transformations",
    "report_page",
    "Artifact",
    "Preprocessing",
    "export_network",
    "plain_state_dict",
    "quantize_network",
    "Session",
    "open_session",
    "prepare",
    "Decision",
    "Governor",
    "replay",
    "load",
    "load_reference",
    "save",
    "AdaptiveDepthError",
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
]

# The public names, in the order of the pipeline. Each is imported when it is used for the first time.

# a model, and the plan for it
from .models import create_model
from .weights import load_weights
from .plan import Stage, Stages, family

# a network of 2^N depths
from .core.network import AdaptiveNetwork
from .core.adapting import adapt, find_stages

# training it
from . import tasks
from .training.schedule import Schedule
from .training.passes import Passes
from .training.self_distillation import SelfDistillation
from .training.recipe import Recipe, load_recipe
from .training.loop import train
from .measure.calibration import calibrate

# measuring and choosing
from .measure.evaluation import evaluate
from .choose.costs import Profile
from .measure.profiling import profile
from .measure.generation import profile_generation
from .choose.tradeoffs import TradeOffs, tradeoffs

# why it works, on this network
from .analysis.rationale import analyze
from .analysis.activation_maps import class_activation_maps

# looking at it
from .plotting import plot_maps, plot_tradeoffs, plot_training, plot_transformations
from .report import report_page

# text from it
from . import language

# on the device
from .preprocessing import Preprocessing
from .deploy.artifact import Artifact
from .deploy.exporting import export_network, quantize_network
from .deploy.session import Session, open_session
from .deploy.preparing import prepare
from .governor.governor import Governor
from .governor.scheduler import DepthScheduler
from .governor.generation import TextGovernor

# keeping it
from .core.saving import load, save
from .core.reference import load_reference

# what can go wrong
from . import errors
from .errors import AdaptiveDepthError

__all__ = [
    "create_model",
    "load_weights",
    "Stage",
    "Stages",
    "family",
    "find_stages",
    "AdaptiveNetwork",
    "adapt",
    "tasks",
    "Schedule",
    "Passes",
    "SelfDistillation",
    "Recipe",
    "load_recipe",
    "train",
    "calibrate",
    "evaluate",
    "Profile",
    "profile",
    "profile_generation",
    "TradeOffs",
    "tradeoffs",
    "analyze",
    "class_activation_maps",
    "plot_maps",
    "plot_tradeoffs",
    "plot_training",
    "plot_transformations",
    "report_page",
    "language",
    "Artifact",
    "Preprocessing",
    "export_network",
    "quantize_network",
    "Session",
    "open_session",
    "prepare",
    "Governor",
    "TextGovernor",
    "DepthScheduler",
    "load",
    "load_reference",
    "save",
    "errors",
    "AdaptiveDepthError",
]

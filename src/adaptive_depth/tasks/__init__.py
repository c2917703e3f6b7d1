"""What a network is for: inputs, losses, and the quality by which all depths are judged."""

from ..quality import Quality
from .classification import Classification, distillation_loss
from .detection import Detection
from .heads import Heads
from .known import OwnCriterion, as_task
from .language import LanguageModel
from .multi_label import MultiLabel
from .regression import Regression
from .segmentation import Segmentation
from .task import Task, Watched

__all__ = [
    "Classification",
    "Detection",
    "Heads",
    "LanguageModel",
    "MultiLabel",
    "OwnCriterion",
    "Quality",
    "Regression",
    "Segmentation",
    "Task",
    "Watched",
    "as_task",
    "distillation_loss",
]

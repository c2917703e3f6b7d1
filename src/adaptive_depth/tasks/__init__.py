"""What a network is for: inputs, losses, and the quality that all depths are judged by."""

from ..quality import Quality
from .classification import Classification, Segmentation, distillation_loss
from .heads import Heads
from .known import OwnCriterion, as_task
from .language import LanguageModel
from .multi_label import MultiLabel
from .regression import Regression
from .task import Task

__all__ = [
    "Classification",
    "Heads",
    "LanguageModel",
    "MultiLabel",
    "OwnCriterion",
    "Quality",
    "Regression",
    "Segmentation",
    "Task",
    "as_task",
    "distillation_loss",
]

"""model → stages: the exact plans of known families, discovery for every other model, stages written by hand."""

from .discovery import discover
from .mobilenet_v2 import mobilenet_v2_runs
from .plan import Mandatory, Run, Stage, Stages, cut, cut_runs
from .registry import families, family, known_runs
from .resnet import resnet_runs  # importing a family's module registers it
from .swin import swin_runs
from .vit import vit_runs

__all__ = [
    "Mandatory",
    "Run",
    "Stage",
    "Stages",
    "cut",
    "cut_runs",
    "discover",
    "families",
    "family",
    "known_runs",
    "mobilenet_v2_runs",
    "resnet_runs",
    "swin_runs",
    "vit_runs",
]

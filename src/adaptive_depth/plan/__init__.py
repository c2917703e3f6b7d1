"""model → stages: the exact plans of known families, discovery for every other model, stages written by hand."""

from .cheapest import cheapest_stretches
from .discovery import discover
from .families import mobilenet_v2_runs, resnet_runs, swin_runs, vit_runs
from .plan import Mandatory, Run, Stage, Stages, cut, cut_runs, protect_last
from .registry import families, family, known_runs

__all__ = [
    "Mandatory",
    "Run",
    "Stage",
    "Stages",
    "cheapest_stretches",
    "cut",
    "cut_runs",
    "discover",
    "families",
    "family",
    "known_runs",
    "mobilenet_v2_runs",
    "protect_last",
    "resnet_runs",
    "swin_runs",
    "vit_runs",
]

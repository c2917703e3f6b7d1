"""model → stages: the exact plans of known families, discovery for every other model, stages written by hand."""

from .bodies import WHOLE, Within, check_one_part, searched
from .cheapest import cheapest_stretches
from .discovery import discover
from .families import mobilenet_v2_runs, resnet_runs, swin_runs, vit_runs
from .plan import Mandatory, Run, Stage, Stages, cut, cut_runs, protect_last
from .registry import families, family, known_runs

__all__ = [
    "WHOLE",
    "Mandatory",
    "Run",
    "Stage",
    "Stages",
    "Within",
    "cheapest_stretches",
    "check_one_part",
    "cut",
    "cut_runs",
    "discover",
    "families",
    "family",
    "known_runs",
    "mobilenet_v2_runs",
    "protect_last",
    "resnet_runs",
    "searched",
    "swin_runs",
    "vit_runs",
]

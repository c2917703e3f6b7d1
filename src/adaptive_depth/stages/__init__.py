"""model → stages: the exact plans of known families, and stages written by hand."""

from .plan import Stage, Stages, cut
from .registry import families, family, find_stages
from .resnet import resnet_stages  # importing a family's module registers it

__all__ = ["Stage", "Stages", "cut", "families", "family", "find_stages", "resnet_stages"]

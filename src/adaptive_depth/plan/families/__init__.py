"""The exact plans of known families; importing a module registers its family."""

from .mobilenet_v2 import mobilenet_v2_runs
from .resnet import resnet_runs
from .swin import swin_runs
from .vit import vit_runs

__all__ = ["mobilenet_v2_runs", "resnet_runs", "swin_runs", "vit_runs"]

"""Is the super-net, after `adapt`, bit-identical to the original: outputs and gradients, eval and train mode?

Every ResNet of torchvision, one timm ResNet of each kind of stem, block and shortcut, the paper's other families in
both libraries, and some networks whose stages are discovered. Without stochastic depth, which `adapt` switches off.
"""

import copy
from typing import Any

import timm
import torch
import torchvision
from measure import report
from torch import nn
from torchvision.ops import StochasticDepth

import adaptive_depth as ad

TORCHVISION = [name for name in torchvision.models.list_models() if name.startswith(("resnet", "wide_", "resnext"))]
TIMM = [
    "resnet18",
    "resnet18d",
    "resnet26t",
    "resnet50",
    "resnetaa50",
    "resnet50_gn",
    "resnetblur50",
    "resnext50_32x4d",
    "seresnet50",
    "ecaresnet26t",
    "seresnext26d_32x4d",
    "wide_resnet50_2",
    "res2net50_14w_8s",
    "resnetrs50",
]

OTHERS: dict[str, dict[str, Any]] = {
    "torchvision/mobilenet_v2": {},
    "torchvision/vit_b_16": {"image_size": 64},
    "torchvision/swin_t": {},
    "torchvision/swin_v2_t": {},
    "torchvision/efficientnet_b0": {},
    "torchvision/convnext_tiny": {},
    "torchvision/regnet_y_400mf": {},
    "mobilenetv2_100": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "drop_path_rate": 0.0},
    "convnext_atto": {},
    "efficientformerv2_s0": {"img_size": 64},
    "mobilevit_xxs": {},
    "hrnet_w18_small": {},
    "davit_tiny": {},
    "cait_xxs24_224": {"img_size": 64},
}


def outputs_and_gradients(model: nn.Module, x: torch.Tensor, training: bool) -> list[torch.Tensor]:
    torch.manual_seed(1)  # for dropout, if there is any
    model.train(training).zero_grad()
    output = model(x)
    output.square().sum().backward()
    plain = model.model if isinstance(model, ad.AdaptiveNetwork) else model
    return [output, *(parameter.grad for parameter in plain.parameters() if parameter.grad is not None)]


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    identical = {}
    resnets = [f"torchvision/{name}" for name in TORCHVISION] + [name for name in TIMM if timm.is_model(name)]
    for name, arguments in [(name, {}) for name in resnets] + list(OTHERS.items()):
        model = ad.create_model(name, **arguments)
        for part in model.modules():
            if isinstance(part, StochasticDepth):
                part.p = 0.0
        network = ad.adapt(copy.deepcopy(model), example=x)
        identical[name] = all(
            torch.equal(a, b)
            for training in (False, True)
            for a, b in zip(
                outputs_and_gradients(model, x, training), outputs_and_gradients(network, x, training), strict=True
            )
        )
        print(name, identical[name], flush=True)
    report("identity", {"target": "all bit-identical", "identical": identical}, passed=all(identical.values()))


if __name__ == "__main__":
    main()

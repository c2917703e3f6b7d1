"""Networks of the library transformers, called with their own keyword inputs."""

import runpy
from pathlib import Path

import pytest
import torch

import adaptive_depth as ad

PAGE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "models.py"))
CUTS = {
    "ResNet": [(1, 1), (2, 1), (2, 1), (1, 1)],
    "ViT": [(2, 1)] * 4,
    "Swin": [(1, 1), (1, 1), (3, 3)],
    "ConvNext": [(2, 1), (2, 1), (5, 4), (2, 1)],
    "Dinov2": [(2, 1)] * 4,
    "Bert": [(2, 1)] * 4,
    "DistilBert": [(1, 1)] * 3,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", CUTS)
def test_every_depth_of_a_model_of_transformers(kind: str) -> None:
    pytest.importorskip("transformers")
    model, inputs = PAGE["hugging_face"](kind)
    with torch.no_grad():
        whole = model(**inputs).logits
    network = ad.adapt(model, example=inputs).eval()
    assert [(len(stage.mandatory), len(stage.skippable)) for stage in network.stages] == CUTS[kind]
    with torch.no_grad():
        assert torch.equal(network(**inputs).logits, whole)
        outputs = [network(**inputs, skip=skip).logits for skip in network.skips]
        assert all(torch.isfinite(output).all() and output.shape == whole.shape for output in outputs)
        assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
        base = network.skips[-1]
        assert torch.equal(network.extract(base)(**inputs).logits, outputs[-1])

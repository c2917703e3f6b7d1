"""Weights in files of others."""

import pytest
import torch
from safetensors.torch import save_file

import adaptive_depth as ad

SMALL = {"channels": (4, 4, 8, 8)}


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped"])
def test_all_but_the_head_is_taken_over(tmp_path, kind):
    trained = ad.create_model("resnet18", num_classes=7, **SMALL)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        torch.save({"state_dict": trained.state_dict()} if kind == "wrapped" else trained.state_dict(), path)
    model = ad.create_model("resnet18", num_classes=3, **SMALL)
    before = model.fc.weight.clone()
    assert ad.load_weights(model, path) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.layer2[1].conv1.weight, trained.layer2[1].conv1.weight)
    network = ad.adapt(model)
    norm = trained.layer1[0].bn1
    assert torch.equal(network.skip_norms.layer1.get_submodule("0.bn1").weight, norm.weight)  # the copies start as it


def test_weights_of_another_model_change_nothing(tmp_path, unchanged):
    torch.save(ad.create_model("resnet18", channels=(16, 16, 16, 16)).state_dict(), tmp_path / "w.pth")
    model = ad.create_model("resnet18", **SMALL)
    with (
        unchanged(model),
        pytest.raises(ad.CheckpointError, match=r"is of another model: \d+ of its 128 tensors fit the model's 128"),
    ):
        ad.load_weights(model, tmp_path / "w.pth")
    (tmp_path / "x.pth").write_text("x")
    with unchanged(model), pytest.raises(ad.CheckpointError, match=r"x.pth (cannot be read|holds more than tensors)"):
        ad.load_weights(model, tmp_path / "x.pth")

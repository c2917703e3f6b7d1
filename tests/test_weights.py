"""Weights in files of others."""

import zipfile

import pytest
import torch
from safetensors.torch import save_file

import adaptive_depth as ad
from adaptive_depth.weights import read_state_dict

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


def test_a_file_that_takes_more_memory_than_it_is_long_is_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    assert list(read_state_dict(tmp_path / "a.pth")) == ["a"]
    with pytest.raises(ad.CheckpointError, match=r"b.pth is compressed, 4,\d+,\d+ bytes in [\d,]+: expected a file as"):
        read_state_dict(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("odd", [torch.empty(3, device="meta"), torch.eye(3).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, odd):
    torch.save({"a": odd}, tmp_path / "a.pth")
    with pytest.raises(ad.CheckpointError, match="holds tensors without plain numbers, a: expected dense ones"):
        read_state_dict(tmp_path / "a.pth")

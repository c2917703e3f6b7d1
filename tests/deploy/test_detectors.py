"""Detectors before their suppression, in files: at every depth the boxes, scores and objects of the network."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, ssdlite320_mobilenet_v3_large
from torchvision.ops import roi_align

import adaptive_depth as ad
from adaptive_depth.deploy import before_suppression
from adaptive_depth.deploy.boxes import Objects, find_objects
from adaptive_depth.deploy.detectors import detections_of, exportable, usual_size
from adaptive_depth.deploy.session import Session, open_session
from adaptive_depth.deploy.torch.programs import open_written
from adaptive_depth.errors import ExportError
from adaptive_depth.meaning import Detections
from adaptive_depth.preprocessing import Preprocessing

_spec = importlib.util.spec_from_file_location("tiny_detectors", Path(__file__).parents[1] / "tiny_detectors.py")
assert _spec is not None
assert _spec.loader is not None
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
KINDS = pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd", "faster"])
FORMATS = pytest.mark.parametrize(
    "name", ["model.onnx", "model.xml", "programs", pytest.param("model.pte", marks=pytest.mark.slow)]
)


def built(kind: str, **options: Any) -> Any:
    return tiny.adapted(tiny.detector(kind, **options))


def written(network: ad.AdaptiveNetwork, file: Path, images: Tensor = IMAGES, **options: Any) -> Session:
    """The session of an export; `programs` is the folder of torch."""
    ad.export_network(network, file, images, **options | ({"to": "torch"} if file.name == "programs" else {}))
    return open_written(file) if file.name == "programs" else open_session(file)


def by_itself(network: ad.AdaptiveNetwork, images: Tensor, skip: str) -> list[dict[str, np.ndarray]]:
    """What the detector returns for these images, its own suppression done."""
    with torch.no_grad():
        return [{name: part.numpy() for name, part in each.items()} for each in network([*images], skip=skip)]


def check_objects(found: list[Objects], wanted: list[dict[str, np.ndarray]], first: int, off: float = 5e-3) -> None:
    """The same objects in the same order; where two score the same to 1e-5, in either."""
    for one, other in zip(found, wanted, strict=True):
        assert len(one.scores) == len(other["scores"]) > 20
        np.testing.assert_allclose(one.scores, other["scores"], atol=1e-5)
        apart = [
            np.abs(other["boxes"] - box).max(axis=1)[(other["labels"] == number + first) & near].min()
            for box, score, number in zip(*one[:3], strict=True)
            if (near := np.abs(other["scores"] - score) < 1e-5) is not None
        ]
        assert max(apart) < off


# -- of torchvision -------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [(32, 48), (20, 30), (80, 40)], ids=str)  # as it is, enlarged and padded, reduced
def test_before_the_suppression_is_what_the_detector_suppresses(kind: str, size: tuple[int, int]) -> None:
    network = built(kind)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    before = exportable(network)
    for skip in network.skips:
        with torch.no_grad():
            output = before(images, skip=skip)
        how = detections_of(before, output)
        assert how is not None
        found = find_objects({name: part.numpy() for name, part in output.items()}, how, size)
        check_objects(found, by_itself(network, images, skip), how.first, off=1e-4)
    assert (before.fingerprint, before.stages) == (network.fingerprint, network.stages)
    assert type(network([*images])) is list  # the network is as it was


@KINDS
@FORMATS
def test_boxes_and_scores_of_every_depth(tmp_path: Path, kind: str, name: str) -> None:
    network = built(kind)
    before = exportable(network)
    if kind == "faster" and name in ("model.xml", "model.pte"):
        target = {"model.xml": "openvino", "model.pte": "executorch"}[name]
        with pytest.raises(
            ExportError, match=rf"{target} cannot take a FasterRCNN: .* inside its graph .*: export it to onnx or"
        ):
            written(network, tmp_path / name)
        assert not list(tmp_path.iterdir())
        return
    # Each depth of a .pte is lowered on its own, which takes seconds: both ends and one between them.
    depths = [*network.skips[:2], network.skips[-1]] if name == "model.pte" else network.skips
    session = written(network, tmp_path / name, skips=depths)
    how = session.artifact.detections
    assert session.skips == tuple(depths)
    assert session.artifact.outputs == ("boxes", "scores")
    assert session.artifact.input_shape == (2 if name == "model.pte" else None, 3, 32, 48)
    assert how is not None
    for skip in depths:
        with torch.no_grad():
            wanted = before(IMAGES, skip=skip)
        found = session(IMAGES, skip)
        for each in ("boxes", "scores"):
            assert found[each] == pytest.approx(wanted[each].numpy(), abs=1e-4 * float(wanted[each].std()))
        check_objects(find_objects(found, how, (32, 48)), by_itself(network, IMAGES, skip), how.first)


def test_a_file_says_how_its_detector_suppresses_and_sees() -> None:
    detector = tiny.detector("retinanet", score_thresh=0.2, nms_thresh=0.4, detections_per_img=30, topk_candidates=50)
    before = exportable(tiny.adapted(detector))
    with torch.no_grad():
        how = detections_of(before, before(IMAGES))
    # Maps of 8 x 12 and 4 x 6 places with two anchors each.
    assert how == Detections(threshold=0.2, overlap=0.4, most=30, candidates=50, levels=(192, 48))
    assert Detections.from_json(how.to_json()) == how


@pytest.mark.parametrize(
    ("kind", "resize", "fill"), [("fcos", "letterbox", (0.485, 0.456, 0.406)), ("ssd", "stretch", ())]
)
def test_a_detector_says_by_itself_how_images_are_prepared(
    tmp_path: Path, kind: str, resize: str, fill: tuple[float, ...]
) -> None:
    session = written(built(kind), tmp_path / "model.onnx", skips=["FF"])
    wanted = Preprocessing((32, 48), 3, (0.0,) * 3, (1.0,) * 3, "bilinear", resize=resize, fill=fill)
    assert session.artifact.preprocessing == wanted
    named = Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3, classes=("ant", "bee", "cat"), resize="stretch")
    session = written(built(kind), tmp_path / "named.onnx", skips=["FF"], data=named)
    assert session.artifact.labels == ("ant", "bee", "cat")
    assert session.artifact.preprocessing is not None
    assert session.artifact.preprocessing.resize == "stretch"


@KINDS
def test_one_file_that_suppresses_by_itself(tmp_path: Path, kind: str) -> None:
    few = {"box_detections_per_img": 30} if kind == "faster" else {"topk_candidates": 40, "detections_per_img": 30}
    network = built(kind, **few)
    session = written(network, tmp_path / "model.onnx", suppress=True)
    how = session.artifact.detections
    assert how is not None
    assert (session.artifact.outputs, how.labels) == (("boxes", "scores", "labels"), "labels")
    for skip in network.skips:
        found = session(IMAGES, skip)
        assert {name: part.shape for name, part in found.items()} == {
            "boxes": (2, 30, 4),
            "scores": (2, 30),
            "labels": (2, 30),
        }
        check_objects(find_objects(found, how, (32, 48)), by_itself(network, IMAGES, skip), how.first)
    stock = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    again = stock.run(["labels"], {"image": IMAGES.numpy(), "skip": np.array([True, True])})[0]
    assert np.array_equal(again, session(IMAGES, "TT")["labels"])


def test_a_file_that_suppresses_fills_up_what_it_does_not_find(tmp_path: Path) -> None:
    network = built("retinanet", score_thresh=0.97, detections_per_img=50)
    session = written(network, tmp_path / "model.onnx", suppress=True, skips=["FF"])
    found, wanted = session(IMAGES), by_itself(network, IMAGES, "FF")
    for image, each in enumerate(wanted):
        number = len(each["scores"])
        assert 0 < number < 50
        assert (found["scores"][image] > 0).sum() == number
        assert not found["boxes"][image, number:].any()
        assert (found["labels"][image, number:] == -1).all()
        np.testing.assert_allclose(found["scores"][image, :number], each["scores"], atol=1e-5)


def test_suppression_in_a_file_that_has_none(tmp_path: Path, two_stages: Any) -> None:
    for name, message in (
        ("model.xml", "suppress=True for openvino: expected one of onnx"),
        ("model.pte", "executorch"),
    ):
        with pytest.raises(ExportError, match=message):
            ad.export_network(built("fcos"), tmp_path / name, IMAGES, suppress=True)
    with pytest.raises(ExportError, match="suppress=True for a network that is not a detector: leave it out"):
        ad.export_network(two_stages(), tmp_path / "model.onnx", torch.randn(1, 3, 8, 8), suppress=True)
    assert not list(tmp_path.iterdir())


class Own(RetinaNet):
    def postprocess_detections(self, *args: Any) -> Any:
        return super().postprocess_detections(*args)[::-1]


def test_a_detector_whose_suppression_is_not_known(tmp_path: Path) -> None:
    network = built("retinanet")
    network.model.__class__ = Own
    with pytest.raises(ExportError, match=r"Own overrides postprocess_detections, .*: expected that of RetinaNet"):
        ad.export_network(network, tmp_path / "model.onnx", IMAGES)
    network = built("faster")
    network.model.rpn.__class__ = type("OwnProposals", (type(network.model.rpn),), {"forward": lambda *_: None})
    with pytest.raises(ExportError, match=r"OwnProposals overrides forward, .* of RegionProposalNetwork"):
        ad.export_network(network, tmp_path / "model.onnx", IMAGES)


def test_a_detector_with_heads_behind_its_suppression(tmp_path: Path) -> None:
    """Mask R-CNN, say: without that head its boxes are exported."""
    network = built("faster")
    alone = by_itself(network, IMAGES, "TF")
    heads = network.model.roi_heads
    for part in ("roi_pool", "head", "predictor"):
        setattr(heads, f"mask_{part}", getattr(heads, f"box_{part}"))
    network.forget_views()
    with pytest.raises(ExportError, match=r"a head that runs on the boxes .*network.model.roi_heads.mask_roi_pool = "):
        ad.export_network(network, tmp_path / "model.onnx", IMAGES)
    assert not list(tmp_path.iterdir())
    network.model.roi_heads.mask_roi_pool = None  # as the error says
    network.forget_views()
    session = written(network, tmp_path / "model.onnx", skips=["TF"])
    how = session.artifact.detections
    assert how is not None
    check_objects(find_objects(session(IMAGES, "TF"), how, (32, 48)), alone, how.first)


def test_regions_of_both_levels_or_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regions: list[int] = []

    def counted(features: Tensor, of_level: Tensor, *args: Any) -> Tensor:
        regions.append(len(of_level))
        return roi_align(features, of_level, *args)

    for scale, wanted in ((12, (True, True)), (224, (True, False))):
        network = built("faster")
        network.model.roi_heads.box_roi_pool.canonical_scale = scale
        session, before = written(network, tmp_path / f"{scale}.onnx", skips=["FF"]), exportable(network)
        with torch.no_grad(), monkeypatch.context() as patched:
            patched.setattr(before_suppression, "roi_align", counted)
            outputs = before(IMAGES, skip="FF")
        assert tuple(number > 0 for number in regions[-2:]) == wanted
        found = session(IMAGES, "FF")
        for name, part in outputs.items():
            assert found[name] == pytest.approx(part.numpy(), abs=1e-4 * float(part.std()))


@KINDS
def test_a_session_over_the_network_itself_gives_the_same(kind: str) -> None:
    network = built(kind)
    session, before = open_session(network), exportable(network)
    assert session.artifact.detections is None  # what levels there are follows from the size
    found = session(IMAGES, "TF")
    with torch.no_grad():
        wanted = before(IMAGES, skip="TF")
    assert all(np.array_equal(found[name], wanted[name].numpy()) for name in found)
    assert session.artifact.detections == detections_of(before, wanted)


def test_plain_weights_are_those_of_a_plain_detector(tmp_path: Path) -> None:
    network = built("retinanet")
    written(network, tmp_path / "programs", skips=["TT"])
    plain = tiny.detector("retinanet", seed=1)
    plain.backbone.one, plain.backbone.two = plain.backbone.one[:2], plain.backbone.two[:2]
    from safetensors.torch import load_file

    plain.load_state_dict(load_file(tmp_path / "programs" / "TT.safetensors"))
    with torch.no_grad():
        assert torch.equal(plain([*IMAGES])[0]["boxes"], network([*IMAGES], skip="TT")[0]["boxes"])


@pytest.mark.slow
def test_the_ssdlite_of_torchvision(tmp_path: Path) -> None:
    """With scores as far apart as after training: before it nearly all are 1/4, and rounding says which are found."""
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    assert usual_size(model) == (320, 320)
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            size = 0.3 if "regression" in name else 5.0 if name.startswith("head") and part.bias is not None else 1.2
            nn.init.normal_(part.weight, std=size * part.weight[0].numel() ** -0.5)
    paths = [f"backbone.features.0.{number}" for number in (4, 5, 6)]
    network = tiny.adapted(model.eval(), [ad.Stage(tuple(paths[:2]), (paths[2],))])
    images = nn.functional.interpolate(torch.rand(1, 3, 40, 40), size=320)
    session, before = written(network, tmp_path / "model.onnx", images), exportable(network)
    how = session.artifact.detections
    assert how is not None
    for skip in network.skips:
        found = session(images, skip)
        with torch.no_grad():
            wanted = before(images, skip=skip)
        assert 0.05 < wanted["scores"].std() < 0.5
        for name, part in wanted.items():
            assert found[name] == pytest.approx(part.numpy(), abs=1e-4 * float(part.std()))
        check_objects(find_objects(found, how, (320, 320)), by_itself(network, images, skip), first=1)

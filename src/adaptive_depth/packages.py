"""Packages that are not always installed: which extra brings one that is missing."""

from .errors import AdaptiveDepthError

# By the name under which it is imported. The smallest extra that brings it.
_EXTRAS = {
    **dict.fromkeys(
        ("accelerate", "huggingface_hub", "safetensors", "sklearn", "timm", "torch", "torchmetrics", "torchvision"),
        "train",
    ),
    **dict.fromkeys(("fastapi", "prometheus_client", "python_multipart", "ray", "starlette", "uvicorn"), "serve"),
    "cv2": "camera",
    "datasets": "data",
    "executorch": "executorch",
    "nncf": "int8",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxruntime": "onnx",
    "onnxscript": "export",
    "openvino": "openvino",
    "pycocotools": "detection",
    "pytorch_grad_cam": "analysis",
    "tensorboard": "track",
    "transformers": "language",
    "wandb": "track",
    "webdataset": "data",
    "zeus": "energy",
}


class MissingPackageError(AdaptiveDepthError, ImportError):
    """A package that is needed for what was asked for, and that is not installed."""


def install(*extras: str) -> str:
    """The command that installs extras.

    Example:
        >>> install("train", "openvino")
        'pip install "adaptive-depth[train,openvino]"'
    """
    return f'pip install "adaptive-depth[{",".join(extras)}]"'


def _package(error: ImportError) -> str:
    """The one that an import did not find."""
    return (error.name or "").partition(".")[0]


def hint(error: ImportError, otherwise: str = "train") -> str:
    """What is lacking, and the command that brings it.

    Arguments:
        error: of an import.
        otherwise: the extra to name where the package is not known.
    """
    return f"a package that is not installed ({error}): {install(_EXTRAS.get(_package(error), otherwise))}"


def missing(error: ImportError, what: str) -> MissingPackageError | None:
    """The error to raise in place of one of an import; None where the package is none of ours, or is there.

    Example:
        >>> str(missing(ModuleNotFoundError("No module named 'torch'", name="torch.nn"), "adaptive_depth.adapt"))
        'adaptive_depth.adapt needs torch, which is not installed: pip install "adaptive-depth[train]"'
    """
    package = _package(error)
    if not isinstance(error, ModuleNotFoundError) or package not in _EXTRAS:
        return None
    return MissingPackageError(f"{what} needs {package}, which is not installed: {install(_EXTRAS[package])}")

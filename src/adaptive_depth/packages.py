"""Optional packages, and the extra that installs each."""

from .errors import AdaptiveDepthError

# By import name: the smallest extra that installs it.
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
    """A package that the call needs is not installed."""


def install(*extras: str) -> str:
    """The command that installs extras.

    Example:
        >>> install("train", "openvino")
        'pip install "adaptive-depth[train,openvino]"'
    """
    return f'pip install "adaptive-depth[{",".join(extras)}]"'


def _package(error: ImportError) -> str:
    """The package that was not found."""
    return (error.name or "").partition(".")[0]


def hint(error: ImportError, otherwise: str = "train") -> str:
    """What is missing, and the command that installs it.

    Arguments:
        error: of an import.
        otherwise: the extra to name if the package is unknown.
    """
    return f"a package that is not installed ({error}): {install(_EXTRAS.get(_package(error), otherwise))}"


def missing(error: ImportError, what: str) -> MissingPackageError | None:
    """The error to raise instead of an import's; None if the package is not one of ours, or is installed.

    Example:
        >>> str(missing(ModuleNotFoundError("No module named 'torch'", name="torch.nn"), "adaptive_depth.adapt"))
        'adaptive_depth.adapt needs torch, which is not installed: pip install "adaptive-depth[train]"'
    """
    package = _package(error)
    if not isinstance(error, ModuleNotFoundError) or package not in _EXTRAS:
        return None
    return MissingPackageError(f"{what} needs {package}, which is not installed: {install(_EXTRAS[package])}")

"""adaptive-depth train: one training for every depth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import runs, show
from .stages import GroupSize, Json, Mandatory, ModelKwargs

if TYPE_CHECKING:
    from ..training.loop import Epoch, History

Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; an accelerator if there is one.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that load images; none on a CPU, else 4, by default.", show_default=False),
]
Root = Annotated[Path | None, typer.Option(help="Folder in which a named data set is stored.", show_default=False)]
_Data = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        help="digits, torch/cifar10, hfds/NAME, ..., or a folder with train/ and val/, one folder a class.",
        show_default=False,
    ),
]
_Size = Annotated[int | None, typer.Option(min=1, help="Pixels; the model's own by default.", show_default=False)]


def train(
    model: Annotated[str, typer.Argument(help="A timm name (resnet50) or torchvision/NAME.", show_default=False)],
    data: _Data,
    output: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write the run to.", show_default=False)],
    root: Root = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a named data set into --root.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate; about 0.001 for adamw.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="A name of timm's: sgd, adamw, lamb, ...")] = "sgd",
    weight_decay: Annotated[float, typer.Option(help="Weight decay; norms and biases are left out.")] = 1e-4,
    image_size: _Size = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from the library's trained weights.")] = False,
    model_kwargs: ModelKwargs = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    alpha: Annotated[float, typer.Option(help="Weight of the super-net's loss; the base-net's has the rest.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Softens both outputs that are compared.")] = 1.0,
    feature_weight: Annotated[float, typer.Option(help="Weight of the optional feature term; 0 is off.")] = 0.0,
    low_memory: Annotated[
        bool,
        typer.Option("--low-memory", help="Two backward passes, less memory."),
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same training.")] = 0,
    workers: Workers = None,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the network in RUN.")] = False,
    json: Json = False,
) -> None:
    """Train a model once by self-distillation, so that every depth of it works; calibrate, evaluate and save it.

    Example: adaptive-depth train resnet18 --data digits --epochs 10 --output runs/digits
    """
    import torch

    from ..data import check_fit, class_names, configure, create_loader
    from ..models import create_model
    from ..training.loop import distil, seeded
    from ..training.loop import train as fit
    from ..training.self_distillation import SelfDistillation

    runs.claim(output, overwrite=overwrite)
    place = runs.pick_device(device)
    workers = runs.pick_workers(workers, place)
    with seeded(seed):
        arguments = {"num_classes": len(class_names(data, root=root, download=download))}
        plain = create_model(model, pretrained=pretrained, **arguments | runs.parse_arguments(model_kwargs or ()))
        config = configure(data, plain, root=root, image_size=image_size)
        example = torch.zeros(2, config.channels, config.image_size, config.image_size)
        check_fit(plain, config)
        network = runs.as_network(plain, mandatory, group_size, example).to(place)
        loader = create_loader(config, "train", batch_size=batch_size, augment=True, workers=workers)
        validation = create_loader(config, "validation", batch_size=2 * batch_size, workers=workers)
        objective = SelfDistillation(
            network, torch.nn.CrossEntropyLoss(), alpha=alpha, temperature=temperature, feature_weight=feature_weight
        )
        with show.progress("training") as advance:
            history = fit(
                network,
                loader,
                step=distil(objective, low_memory=low_memory),
                epochs=epochs,
                optimizer=optimizer,
                lr=lr,
                weight_decay=weight_decay,
                on_step=advance,
                on_epoch=lambda epoch: advance(note=describe(epoch)),
            )
        runs.save_run(output, network, config, history)  # before anything else can fail
        before = runs.measure_accuracy(network, validation)
        calibrated = runs.calibrate_on(network, config, batch_size=batch_size, workers=workers)
        after = runs.measure_accuracy(network, validation) if calibrated else before
    runs.save_run(output, network, config, history)
    result = {"run": str(output), "before_calibration": before, "accuracy": after, "images": images_in(validation)}
    show.write_json(output / runs.ACCURACY, result)
    _report(result, history, json)


def describe(epoch: "Epoch") -> str:
    """An epoch in a few words."""
    if epoch.base_accuracy is None:
        return f"epoch {epoch.epoch}, training accuracy {epoch.accuracy:.1f} %"
    return (
        f"epoch {epoch.epoch}, training accuracy of the super-net {epoch.accuracy:.1f} %, of the base-net "
        f"{epoch.base_accuracy:.1f} %"
    )


def images_in(loader: Any) -> int:
    """How many images a loader goes through."""
    return len(loader.dataset)


def _report(result: dict[str, Any], history: "History", json: bool) -> None:
    if json:
        show.as_json(result | {"history": history.to_json()})
        return
    typer.echo(f"Top-1 accuracy (%) on {result['images']} validation images, before and after calibration:")
    typer.echo(show.accuracy_table(result["before_calibration"], result["accuracy"]))
    typer.echo(f"Written to {result['run']}. Next, measure what each depth costs here:")
    typer.echo(f"  {show.command('profile', result['run'])}")

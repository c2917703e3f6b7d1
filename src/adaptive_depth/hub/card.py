"""The model card of a network: README.md with metadata, as the Hugging Face Hub shows it."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..choose.costs import macs_unit
from ..choose.tradeoffs import TradeOffs
from ..errors import CheckpointError, one_line
from ..preprocessing import Preprocessing
from ..quality import TOP_1, Quality
from ..text import figures, printable
from .folder import Kept

LIBRARY = "adaptive-depth"
_PAPER = "https://arxiv.org/abs/2312.16392"
_NAMED = 20  # the most classes listed in a card
_METRICS = {"top-1": "accuracy", "mIoU": "mean_iou", "mAP": "mean_average_precision"}  # the Hub's names


def card_metadata(
    source: Mapping[str, Any] | None, images: bool, given: Mapping[str, Any], quality: Quality | None = None
) -> dict[str, Any]:
    """The metadata at the head of a card: what is known, overridden by what was given; tags of both.

    Arguments:
        source: name and arguments of the model; None for one that cannot be built by name.
        images: whether the network is known to classify images for another reason.
        given: as huggingface_hub's ModelCardData takes it.
        quality: what the depths are judged by; None if unknown. A quality other than top-1 does not imply a task: pass
            `pipeline_tag`.

    Raises:
        CheckpointError: invalid metadata.

    Example:
        >>> card_metadata({"name": "torchvision/resnet18", "arguments": {}}, False, {"license": "mit"})["tags"]
        ['adaptive-depth', 'resnet18']
    """
    from huggingface_hub import ModelCardData

    tags = [LIBRARY, *([] if source is None else [source["name"].rpartition("/")[2]])]
    classifies = (images or source is not None) and quality in (None, TOP_1)
    known: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "image-classification" if classifies else None,
        "metrics": None if quality is None else [metric_type(quality)],
    }
    try:
        more = given.get("tags") or ()
        metadata = {**known, **given, "tags": [*tags, *([more] if isinstance(more, str) else more)]}
        # Only reading it back shows whether it is valid.
        yaml.safe_load(ModelCardData(**metadata).to_yaml())
    except Exception as error:  # the constructor and YAML raise anything
        raise CheckpointError(
            f"model_card_kwargs={given!r} is not valid card metadata ({one_line(error)}): expected plain values such "
            "as {'license': 'mit', 'base_model': 'timm/resnet50.a1_in1k'}"
        ) from error
    return metadata


def metric_type(quality: Quality) -> str:
    """The Hub's name for a quality in a card's metadata.

    Example:
        >>> metric_type(TOP_1), metric_type(Quality("RMSE", "m", higher_is_better=False)), metric_type(Quality("AP 50"))
        ('accuracy', 'rmse', 'ap_50')
    """
    return _METRICS.get(quality.name) or "_".join(re.findall("[a-z0-9]+", quality.name.lower()))


def model_card(
    name: str,
    network: Kept,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    preprocessing: Preprocessing | None = None,
    tradeoffs: TradeOffs | None = None,
) -> str:
    """The text of a card: metadata, what the network is, how to use it, its stages, and its depths' quality and cost.

    Arguments:
        name: of the repository or folder.
        network: what it is about.
        config: the content of config.json, with the model's origin.
        metadata: what `card_metadata` returned.
        preprocessing, tradeoffs: None if unknown.
    """
    from huggingface_hub import ModelCardData

    parts = [
        f"---\n{ModelCardData(**metadata).to_yaml()}\n---",
        f"# {_plain(name.rpartition('/')[2]).strip()}",
        _introduction(network, config),
        f"## How to use\n\n{_fenced('python', _usage(name, network, config, preprocessing is not None))}",
        "A skip is one letter per stage: `T` leaves out its skippable blocks, `F` runs them.",
        f"## Stages\n\n{_fenced('text', str(network.stages))}",
        *([] if tradeoffs is None else [f"## Trade-offs\n\n{trade_off_table(tradeoffs)}"]),
        *([] if preprocessing is None else [f"## Preprocessing\n\n{_told(preprocessing)}"]),
    ]
    text = "\n\n".join(parts) + "\n\n"
    return f"{text}{_signature(text)}\n"


def changed_by_hand(card: Path) -> bool:
    """Whether there is a card that this library did not write, or that was changed since."""
    if not card.exists():
        return False
    text, mark, signature = card.read_text(encoding="utf-8", errors="replace").rstrip("\n").rpartition("<!--")
    return mark + signature != _signature(text)


def _signature(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"<!-- Written by {LIBRARY} ({digest}). It rewrites a card, unless the card was changed by hand. -->"


# -- the parts --------------------------------------------------------------------------------------------------


def _introduction(network: Kept, config: Mapping[str, Any]) -> str:
    library, _, name = (config["source"] or {"name": "/"})["name"].rpartition("/")
    what = _plain(f"{name} of {library or 'timm'}" if name else config["model"]).strip()
    calibrated = " BatchNorm statistics are calibrated for every depth." if network.calibrated else ""
    return (
        f"{what} as a network whose depth is chosen at run time: one set of weights serves {len(network.skips)} "
        f"sub-networks, from the super-net `{network.skips[0]}` down to the base-net `{network.skips[-1]}`."
        f"{calibrated} Made with {LIBRARY}, which implements "
        f"[Adaptive Depth Networks with Skippable Sub-Paths]({_PAPER})."
    )


def _usage(name: str, network: Kept, config: Mapping[str, Any], prepared: bool) -> str:
    base = network.skips[-1]
    kind = config["model"] if str(config["model"]).isidentifier() else "MyModel"
    model = "" if config["source"] is not None else f", model={kind}(...)"
    given = json.dumps(name, ensure_ascii=False).replace(
        "<", r"\u003c"
    )  # a Python string that no renderer takes for a tag
    opened = ['x = net.preprocessing.transform()(Image.open("image.png"))[None]'] * prepared
    lines = [
        "import adaptive_depth as ad",
        *["from PIL import Image"] * prepared,
        "",
        f"net = ad.AdaptiveNetwork.from_pretrained({given}{model})",
        *opened,
        f'net(x), net(x, skip="{base}")  # the super-net, and the base-net, on a batch x',
        f'small = net.subnet("{base}")  # an ordinary module that shares the weights',
    ]
    return "\n".join(lines)


def trade_off_table(table: TradeOffs) -> str:
    """Quality and costs of all sub-networks in Markdown, and the device of the measurement.

    Example:
        >>> from adaptive_depth.choose.tradeoffs import Row
        >>> print(trade_off_table(TradeOffs((Row("F", 76.0, 4_000_000, 9000), Row("T", 75.0, 2_000_000, 5000)))))
        | skip | top-1 | MMACs | parameters | Pareto front |
        |---|---|---|---|---|
        | F | 76.00 % | 4.000 | 9,000 | * |
        | T | 75.00 % | 2.000 | 5,000 | * |
        <BLANKLINE>
        Multiply-adds are per sample. The Pareto front is of accuracy against macs.
    """
    cost, front = table.cost_name(), table.front()
    times = {"latency_ms": "latency", "token_ms": "time per token"}
    timed = cost in times
    divisor, unit = macs_unit(max(row.macs for row in table.rows))
    judged_by = table.quality.name + ("" if table.quality.higher_is_better else " (lower is better)")
    columns = ["skip", judged_by, unit, "parameters", *([times[cost]] if timed else []), "Pareto front"]
    lines = [_line(columns), f"|{'---|' * len(columns)}"]
    macs = figures([row.macs / divisor for row in table.rows], 3)
    times_ms = figures([getattr(row, cost) for row in table.rows])
    for row, work, ms in zip(table.rows, macs, times_ms, strict=True):
        costs = [work, f"{row.parameters:,}", *([f"{ms} ms"] if timed else [])]
        lines.append(_line([row.skip, table.text(row), *costs, "*" if row in front else ""]))
    at = table.device.get
    threads = f"{at('threads')} CPU thread{'s' * (at('threads') != 1)}"
    where = _plain(f" on {at('processor')} ({at('type')}, {threads}, torch {at('torch')})") * bool(at("type"))
    passed = "Latency is the median of one forward pass for a batch of "
    told = {
        "latency_ms": f"{passed}{table.batch_size}",
        "token_ms": f"Time per token is the median for a {table.of_text()}",
    }
    measured = f" {told[cost]}{where}." if timed else ""
    front_of = f"The Pareto front is of {_plain(table.quality.noun)} against {cost}."
    notes = f"Multiply-adds are per sample.{measured} {front_of}"
    return "\n".join([*lines, "", notes])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell if cell == '*' else _plain(cell) for cell in cells)} |"


def _told(preprocessing: Preprocessing) -> str:
    (height, width), names = preprocessing.sides, preprocessing.classes
    shown = {
        "crop": f"the central {preprocessing.crop_pct:.1%} of a side",
        "stretch": "the whole image, stretched",
        "letterbox": "the whole image in its proportions, the rest filled",
    }[preprocessing.resize]
    text = (
        f"Images in {'grey' if preprocessing.channels == 1 else 'colour'}, {width} x {height} pixels "
        f"({preprocessing.interpolation}; {shown}), mean {list(preprocessing.mean)}, std {list(preprocessing.std)}."
    )
    more = f", ... ({len(names)} in total, see config.json)" if len(names) > _NAMED else ""
    return text + (f" Classes: {', '.join(map(_plain, names[:_NAMED]))}{more}." if names else "")


# -- names of the user's ----------------------------------------------------------------------------------------


def _plain(text: object) -> str:
    """Text that appears literally in Markdown: one line without tags, links, cells or emphasis.

    Example:
        >>> print(_plain("a|b\\n---\\n# <c> [d](e) f_g _h_"))
        a\\|b --- # &lt;c&gt; \\[d\\](e) f_g \\_h\\_
    """
    line = printable(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"[\\`*\[\]|~$]", lambda found: f"\\{found[0]}", line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)


def _fenced(language: str, text: str) -> str:
    """Literal text, in a block that it cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"

"""What `run` says of its images: in words, as JSON, and against the names of their folders."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..deploy.streaming import Pass, Tally


def as_json(passed: "Pass") -> dict[str, Any]:
    """A line of --predictions; `""` is the only output of a network that has no more."""
    outputs = {each.output: each.values for each in passed.predictions}
    said = {"image": passed.image, "skip": passed.skip, "latency_ms": passed.latency_ms, "outputs": outputs}
    if passed.waited_ms is not None:
        said |= {"waited_ms": passed.waited_ms, "shed": passed.shed}
    return said if passed.error is None else {**said, "error": str(passed.error)}


def said_of(passed: "Pass", labels: Sequence[str]) -> dict[str, Any]:
    """What the network predicts of an image, with the class that its folder is named after, if any."""
    outputs = {each.output: each.values for each in passed.predictions}
    folder = _class_of(passed, labels)
    said: dict[str, Any] = {"image": passed.image, "skip": passed.skip, "outputs": outputs}
    return said if folder is None else {**said, "folder": folder}


def right_by_folders(passes: "Iterable[Pass]", labels: Sequence[str]) -> dict[str, int]:
    """How many images lie in a folder named after a class, and of how many of them that is the prediction; empty for
    none.
    """
    known = [(passed, name) for passed in passes if (name := _class_of(passed, labels)) is not None]
    right = sum(passed.predictions[0].values["class"] == name for passed, name in known)
    return {"in_class_folders": len(known), "right": right} if known else {}


def _class_of(passed: "Pass", labels: Sequence[str]) -> str | None:
    name = Path(passed.image).parent.name
    classifies = len(passed.predictions) == 1 and "class" in passed.predictions[0].values
    return name if classifies and name in labels else None


def in_words(said: dict[str, Any], tally: "Tally") -> str:
    lines = [_images(said)]
    if not said["images"]:
        return "\n".join([*lines, *([f"Turned away: {said['shed']}"] if said["shed"] else [])])
    if said["target_ms"] is not None:
        shed = "" if said["shed"] is None else f", {said['shed']} turned away"
        lines.append(
            f"Deadline: {said['target_ms']:g} ms met by {said['met_percent']:.1f} %, {said['misses']} missed{shed}"
        )
    if said["waited_mean_ms"] is not None:
        lines.append(
            f"Waiting: {said['waited_mean_ms']:.2f} ms on average, 95 % at most {said['waited_p95_ms']:.2f} ms, with "
            "preparing; the deadline counts from the arrival of an image"
        )
    lines.append(
        f"Latency: {said['latency_mean_ms']:.2f} ms on average, 95 % within {said['latency_p95_ms']:.2f} ms "
        f"({said['backend']}); preparing an image {said['prepared_mean_ms']:.2f} ms, reading the outputs "
        f"{said['read_mean_ms']:.2f} ms"
    )
    shares = (f"{skip} {100 * passes / said['images']:.1f} %" for skip, passes in said["depths"].items())
    lines.append(f"Depths: {', '.join(shares)}; switches: {said['switches']}")
    if tally.expected_text is not None:
        lines.append(f"{tally.quality.title}: {tally.expected_text} expected of these depths")
    if of := said.get("in_class_folders"):
        lines.append(f"By the folders' names: {said['right']} of {of} images right, {100 * said['right'] / of:.1f} %")
    return "\n".join(lines)


def why_few(said: dict[str, Any], pace: float | None) -> Iterator[str]:
    """What stands in the way of a deadline besides the network."""
    prepared, target = said["prepared_mean_ms"], said["target_ms"]
    if said["shed"] and prepared is not None and prepared > target:
        yield (
            f"Preparing an image takes {prepared:.1f} ms, more than the deadline of {target:g} ms: no depth can hold "
            "it; give smaller images, or a later deadline"
        )
    rate = (said["images"] + (said["shed"] or 0) + said["failures"]) / said["seconds"] if said["seconds"] else 0.0
    if pace is not None and rate < 0.9 * pace and said["images"] + (said["shed"] or 0) > 5:
        yield f"Images came {rate:.1f} a second, not {pace:g}: reading and preparing them takes longer than that"


def _images(said: dict[str, Any]) -> str:
    rate = said["images"] / said["seconds"] if said["seconds"] else 0.0
    words = [f"Images: {said['images']} in {said['seconds']:.1f} s, {rate:.1f} a second with reading and preparing"]
    words += [f"{said[name]} {word}" for name, word in (("failures", "failed"), ("left_out", "left out")) if said[name]]
    return ", ".join([*words, "interrupted"] if said["interrupted"] else words)

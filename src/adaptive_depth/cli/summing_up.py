"""What `run` reports on its images: as text, as JSON, and compared with the names of their folders."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..deploy.streaming import Pass, Tally


def as_json(passed: "Pass") -> dict[str, Any]:
    """A line of --predictions; a network with one output calls it `""`."""
    line = {**_predicted(passed), "latency_ms": passed.latency_ms}
    if passed.waited_ms is not None:
        line |= {"waited_ms": passed.waited_ms, "shed": passed.shed}
    return line if passed.error is None else {**line, "error": str(passed.error)}


def prediction_of(passed: "Pass", labels: Sequence[str]) -> dict[str, Any]:
    """What the network predicts for an image, with the class that its folder is named after, if any."""
    folder = _class_of(passed, labels)
    return _predicted(passed) | ({} if folder is None else {"folder": folder})


def _predicted(passed: "Pass") -> dict[str, Any]:
    outputs = {each.output: each.values for each in passed.predictions}
    return {"image": passed.image, "skip": passed.skip, "outputs": outputs}


def right_by_folders(passes: "Iterable[Pass]", labels: Sequence[str]) -> dict[str, int]:
    """How many images are in a folder named after a class, and how many of them are predicted right; empty if none."""
    known = [(passed, name) for passed in passes if (name := _class_of(passed, labels)) is not None]
    right = sum(passed.predictions[0].values["class"] == name for passed, name in known)
    return {"in_class_folders": len(known), "right": right} if known else {}


def _class_of(passed: "Pass", labels: Sequence[str]) -> str | None:
    name = Path(passed.image).parent.name
    classifies = len(passed.predictions) == 1 and "class" in passed.predictions[0].values
    return name if classifies and name in labels else None


def in_words(total: dict[str, Any], tally: "Tally") -> str:
    lines = [_images(total)]
    if not total["images"]:
        return "\n".join([*lines, *([f"Turned away: {total['shed']}"] if total["shed"] else [])])
    if total["target_ms"] is not None:
        shed = "" if total["shed"] is None else f", {total['shed']} turned away"
        lines.append(
            f"Deadline: {total['target_ms']:g} ms met by {total['met_percent']:.1f} %, {total['misses']} missed{shed}"
        )
    if total["waited_mean_ms"] is not None:
        lines.append(
            f"Waiting: {total['waited_mean_ms']:.2f} ms on average, 95 % within {total['waited_p95_ms']:.2f} ms, "
            "including preparation; the deadline counts from the arrival of an image"
        )
    lines.append(
        f"Latency: {total['latency_mean_ms']:.2f} ms on average, 95 % within {total['latency_p95_ms']:.2f} ms "
        f"({total['backend']}); preparing an image {total['prepared_mean_ms']:.2f} ms, reading the outputs "
        f"{total['read_mean_ms']:.2f} ms"
    )
    shares = (f"{skip} {100 * passes / total['images']:.1f} %" for skip, passes in total["depths"].items())
    lines.append(f"Depths: {', '.join(shares)}; switches: {total['switches']}")
    if tally.expected_text is not None:
        lines.append(f"{tally.quality.title}: {tally.expected_text} expected at these depths")
    if of := total.get("in_class_folders"):
        lines.append(
            f"Measured, by the folders' names: {total['right']} of {of} images right, {100 * total['right'] / of:.1f} %"
        )
    return "\n".join(lines)


def why_few(total: dict[str, Any], pace: float | None) -> Iterator[str]:
    """What other than the network keeps images from meeting the deadline."""
    prepared, target = total["prepared_mean_ms"], total["target_ms"]
    if total["shed"] and prepared is not None and prepared > target:
        yield (
            f"Preparing an image takes {prepared:.1f} ms, more than the deadline of {target:g} ms, so no depth can "
            "meet it: use smaller images, or a later deadline"
        )
    arrived = total["images"] + (total["shed"] or 0)
    rate = (arrived + total["failures"]) / total["seconds"] if total["seconds"] else 0.0
    # A few images say little about a rate.
    if pace is not None and rate < 0.9 * pace and arrived > 5:
        yield f"Images came at {rate:.1f} per second, not {pace:g}: reading and preparing them takes too long"


def _images(total: dict[str, Any]) -> str:
    rate = total["images"] / total["seconds"] if total["seconds"] else 0.0
    words = [f"Images: {total['images']} in {total['seconds']:.1f} s, {rate:.1f} per second with reading and preparing"]
    problems = (("failures", "failed"), ("left_out", "left out"))
    words += [f"{total[name]} {word}" for name, word in problems if total[name]]
    return ", ".join([*words, "interrupted"] if total["interrupted"] else words)

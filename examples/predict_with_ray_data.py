"""A folder of images at a fixed depth with Ray Data; started again, it goes on where it was interrupted.

    python predict_with_ray_data.py model.onnx photos/ answers/ --skip TTFF

`answers/` holds lines of JSON, `{"image": ..., "text": ...}`, in files of `--chunk` images. A chunk is written whole or
not at all (under another name first), and images that are in one are not run again. Whoever cannot be read is named
with its error.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_depth.deploy.predictions import Reader
from adaptive_depth.deploy.preparing import prepare, read_image
from adaptive_depth.deploy.session import open_session
from adaptive_depth.deploy.sources import find_images
from adaptive_depth.errors import DataError
from adaptive_depth.serve.on_ray import importable


class AtDepth:
    """Runs batches in a process of Ray."""

    def __init__(self, path: str, skip: str) -> None:
        self.session, self.skip = open_session(path, threads=1), skip
        artifact = self.session.artifact
        self.preprocessing, self.read = artifact.preprocessing, Reader.of(artifact, classes=True)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = {}
        for name in batch["image"]:
            try:
                image = read_image(name)
                output = self.session(prepare(image, self.preprocessing)[None], self.skip)
                found = self.read(output, self.preprocessing.place(*image.size))
                texts[name] = "; ".join(map(str, found))
            except DataError as error:
                texts[name] = f"error: {error}"
        return {"image": batch["image"], "text": np.array([texts[name] for name in batch["image"]], object)}


def done(folder: Path) -> set[str]:
    """The images that were answered before."""
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return {json.loads(line)["image"] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("answers", type=Path)
    parser.add_argument("--skip", required=True)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    given.answers.mkdir(parents=True, exist_ok=True)
    before = done(given.answers)
    left = [name for name in map(str, find_images([given.images])) if name not in before]
    print(f"{len(before)} images are done, {len(left)} are left")
    with importable():
        import ray

        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        ray.data.DataContext.get_current().enable_progress_bars = False
        options = {"fn_constructor_args": (str(Path(given.model).resolve()), given.skip), "batch_size": 16}
        for start in range(0, len(left), given.chunk):
            names = left[start : start + given.chunk]
            data = ray.data.from_items([{"image": name} for name in names])
            rows = data.map_batches(AtDepth, concurrency=given.processes, **options).take_all()
            part = given.answers / f"{len(before) + start:09d}.part"
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))
            part.rename(part.with_suffix(".jsonl"))
            print(f"{start + len(names)} of {len(left)}", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()

"""Megabytes resident in a process that has run every depth of OpenVINO models; `export_openvino` asks for it."""

import itertools
import sys

import numpy as np
import openvino
import psutil

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def main() -> None:
    x, core, kept = np.zeros((1, 3, 224, 224), np.float32), openvino.Core(), []
    for file in sys.argv[1:]:
        request = core.compile_model(file, "CPU", SETTINGS).create_infer_request()
        kept.append(request)
        inputs = request.model_inputs
        depths = itertools.product([False, True], repeat=4) if len(inputs) == 2 else [None]
        for flags in depths:
            request.infer([x] if flags is None else [x, np.array(flags)])
    print(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    main()

"""How much any scheduler can answer rightly on the bursts of scheduling.py where batches save nothing: an upper bound.

Each request is split at will between the depths, the device is split at will between the requests, and all arrivals
are known beforehand: a linear program, of which every real schedule is a solution. Beside it stands what
`DepthScheduler` and the best of its rivals reach (results/scheduling.json).
"""

import json
import random
import statistics
from pathlib import Path

import numpy as np
from measure import report
from scheduling import BATCH_COSTS, DEADLINE_MS, JUDGED, MAX_BATCH, TRACES, Trace, table_of
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from adaptive_depth.choose.tradeoffs import TradeOffs

SLOT_MS = 10.0  # a request may use the whole of each slot that it meets, which only raises the bound


def bound(trace: Trace, table: TradeOffs) -> float:
    """Percent of right answers in time that no schedule exceeds; batches save nothing, and the device is never slow."""
    depths = [(row.accuracy / 100, row.latency_ms or 0.0) for row in table.front()]
    n, k = len(trace.arrivals), len(depths)
    windows = [range(int(came // SLOT_MS), int((came + DEADLINE_MS) // SLOT_MS) + 1) for came in trace.arrivals]
    starts = n * k + np.concatenate([[0], np.cumsum([len(window) for window in windows])])
    slots = max(window[-1] for window in windows) + 1
    # Variables: the part of request i at depth d, then the time of request i in each slot of its window.
    worth = np.zeros(starts[-1])
    worth[: n * k] = np.tile([quality for quality, _ in depths], n)
    once = coo_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), np.arange(n * k))), shape=(n, starts[-1]))
    used = [(n + slot, starts[i] + j) for i, window in enumerate(windows) for j, slot in enumerate(window)]
    rows, columns = np.array(used).T
    most = coo_matrix(
        (np.ones(n * k + len(used)), (np.r_[once.row, rows], np.r_[once.col, columns])), shape=(n + slots, starts[-1])
    )
    owners = np.repeat(np.arange(n), [len(window) for window in windows])
    costs = np.r_[np.tile([time for _, time in depths], n), -np.ones(len(used))]
    spent = coo_matrix((costs, (np.r_[once.row, owners], np.arange(starts[-1]))), shape=(n, starts[-1]))
    limits = np.r_[np.ones(n), np.full(slots, SLOT_MS)]
    found = linprog(-worth, A_ub=most.tocsr(), b_ub=limits, A_eq=spent.tocsr(), b_eq=np.zeros(n), method="highs")
    return 100 * -found.fun / n


def main() -> None:
    table = table_of(BATCH_COSTS["linear"])
    slowest = max(row.latency_ms or 0.0 for row in table.rows if row.skip == "TTTT")
    capacity = MAX_BATCH / (MAX_BATCH * slowest)
    measured = json.loads((Path(__file__).parent / "results" / "scheduling.json").read_text())["traces"]
    result = {}
    for name in ("bursts, short", "bursts, long"):
        traces = [TRACES[name](capacity, random.Random(seed)) for seed in JUDGED]
        most = statistics.mean(bound(trace, table) for trace in traces)
        reached = measured[f"{name}, linear batches"]
        best = reached["scheduler"] - reached["above the best rival"]
        result[name] = {"at most": most, "scheduler": reached["scheduler"], "best rival": best, "room": most - best}
        print(name, result[name], flush=True)
    report("scheduling_bound", {"target": "none: what can be had at all", **result}, passed=True)


if __name__ == "__main__":
    main()

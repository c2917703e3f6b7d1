"""All experiments of the page, one after the other; their runs are made together, each once."""

import ablation
import cheaper
import contexts
import cost
import device
import fine_tuning
import knobs
import main_result
import ratio
import rationale
import strategies
import test_bed
import wider_range
from command import command

EXPERIMENTS = (
    test_bed,
    main_result,
    ablation,
    strategies,
    ratio,
    cost,
    device,
    rationale,
    fine_tuning,
    contexts,
    cheaper,
    wider_range,
    knobs,
)

if __name__ == "__main__":
    command(*EXPERIMENTS)

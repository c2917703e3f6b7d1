"""All experiments of the page, one after the other; their runs are made together, each once."""

import ablation
import cheaper
import contexts
import cost
import device
import fine_tuning
import knobs
import longer
import main_result
import ratio
import rationale
import strategies
import where_depth_pays
import wider_range
from command import command

EXPERIMENTS = (
    where_depth_pays,
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
    longer,
    knobs,
)

if __name__ == "__main__":
    command(*EXPERIMENTS)

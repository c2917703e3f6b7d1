"""All experiments of the page, one after the other; their runs are made together, each once."""

import ablation
import cheaper
import contexts
import controls
import cost
import device
import every_depth
import fine_tuning
import knobs
import longer
import made_adaptive
import main_result
import ratio
import rationale
import schedule_cost
import strategies
import what_matters
import where_depth_pays
import wider_range
from command import command

EXPERIMENTS = (
    every_depth,
    controls,
    what_matters,
    made_adaptive,
    schedule_cost,
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

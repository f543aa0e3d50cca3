"""Stage `evaluate_model`: figures and predictions of a task's model."""

from plumbline.stage import run_stage
from plumbline.stages.evaluate_model import main

if __name__ == "__main__":
    run_stage(main)

"""Stage `check_params`: params.yaml is what conf/ composes to, and every setting is valid."""

from plumbline.stage import run_stage
from plumbline.stages.check_params import main

if __name__ == "__main__":
    run_stage(main)

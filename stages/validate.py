"""Stage `validate`: every row is clean or in quarantine with its reason."""

from plumbline.stage import run_stage
from plumbline.stages.validate import main

if __name__ == "__main__":
    run_stage(main)

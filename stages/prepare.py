"""Stage `prepare`: bring a source into the canonical columns."""

from plumbline.stage import run_stage
from plumbline.stages.prepare import main

if __name__ == "__main__":
    run_stage(main)

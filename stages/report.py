"""Stage `report`: one self-contained page on everything of the current selection."""

from plumbline.stage import run_stage
from plumbline.stages.report import main

if __name__ == "__main__":
    run_stage(main)

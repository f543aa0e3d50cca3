"""Stage `detect_shapes`: what the data looks like, and whether it can be trained on."""

from plumbline.stage import run_stage
from plumbline.stages.detect_shapes import main

if __name__ == "__main__":
    run_stage(main)

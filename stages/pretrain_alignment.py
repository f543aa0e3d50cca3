"""Stage `pretrain_alignment`: images or audio and their texts learn to meet in one space."""

from plumbline.stage import run_stage
from plumbline.stages.pretrain_alignment import main

if __name__ == "__main__":
    run_stage(main)

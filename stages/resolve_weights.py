"""Stage `resolve_weights`: which files a checkpoint of others has."""

from plumbline.stage import run_stage
from plumbline.stages.resolve_weights import main

if __name__ == "__main__":
    run_stage(main)

"""Stage `digest_code`: which code each stage runs, so that it reruns when its meaning changes."""

from plumbline.stage import run_stage
from plumbline.stages.digest_code import main

if __name__ == "__main__":
    run_stage(main)

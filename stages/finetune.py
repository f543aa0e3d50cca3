"""Stage `finetune`: a task's model learns on top of what it starts from."""

from plumbline.stage import run_stage
from plumbline.stages.finetune import main

if __name__ == "__main__":
    run_stage(main)

"""Stage `evaluate_alignment`: recall@k both ways, embeddings and examples."""

from plumbline.stage import run_stage
from plumbline.stages.evaluate_alignment import main

if __name__ == "__main__":
    run_stage(main)

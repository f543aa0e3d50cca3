"""Stage `tokenize_text`: tokenizer, token ids and decoded images, each distinct value once."""

from plumbline.stage import run_stage
from plumbline.stages.tokenize_text import main

if __name__ == "__main__":
    run_stage(main)

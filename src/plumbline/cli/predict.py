"""Ask a trained model with what its kind takes.

a vision-language model   --image x.png --question 'what is it?'
a classifier, a regressor --image x.png | --audio x.wav | --features x.npy | --text 'some words'
a causal language model   --prompt 'Once' --temperature 0.8 --top-k 50 --stop '.' --seed 1
a masked language model   --text 'to be or <mask> to be' --candidates 3
an encoder-decoder        --source 'a dog runs' --beams 4
"""

import argparse
import json

from plumbline import paths
from plumbline.names import check_name
from plumbline.predict import add_options, predict
from plumbline.text import shown

add_arguments = add_options


def run(options: argparse.Namespace) -> None:
    """Print the answer as one JSON line."""
    if options.model is None:
        check_name("task", options.task)
    answer = predict(options.model or paths.finetuned(options.task), options)
    print(shown(json.dumps(answer, ensure_ascii=False)))

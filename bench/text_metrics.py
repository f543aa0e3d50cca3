"""Claim: BLEU and ROUGE are no slower than sacrebleu and rouge-score alone, with equal results.

Texts of five to twenty words, each pair once and as answers are, a hundred distinct pairs again and
again; one reference a sample, then three. Ours and the library alone score them in turn, in this
process. Prints one JSON line: for each case and metric the median CPU seconds of both, and the
library's divided by ours (least and most of the turns beside it). The figures must be equal to the
bit. Exit code 1: a ratio of medians is below its limit.
`python -m bench.text_metrics [--repeats 5]`.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from plumbline.metrics.rouge import rouge
from plumbline.metrics.text_overlap import corpus_bleu

MIN_RATIO = 1.0
PAIRS = 4_000
TYPES = ["rouge1", "rouge2", "rougeL"]

Corpus = tuple[list[str], list[list[str]]]
"""Predictions, and the references of each."""


def draw(distinct: int, references: int) -> Corpus:
    """Pairs that share most of their words, so many of them distinct."""
    random_ = random.Random(0)
    known = [f"{random_.choice('bcdfgklmnprst')}{random_.choice('aeiou')}{n}" for n in range(2_000)]

    def sentence() -> list[str]:
        return random_.choices(known, k=random_.randint(5, 20))

    samples = []
    for _ in range(distinct):
        said = sentence()
        meant = [
            [word if random_.random() < 0.75 else random_.choice(known) for word in said]
            for _ in range(references)
        ]
        samples.append((" ".join(said) + ".", [" ".join(words) + "." for words in meant]))
    drawn = [samples[n % distinct] for n in range(PAIRS)]
    random_.shuffle(drawn)
    return [said for said, _ in drawn], [meant for _, meant in drawn]


def our_bleu(predictions: list[str], references: list[list[str]]) -> object:
    """The score and its signature."""
    return corpus_bleu(predictions, references)


def their_bleu(predictions: list[str], references: list[list[str]]) -> object:
    """As sacrebleu is called."""
    bleu = BLEU()
    score = bleu.corpus_score(
        predictions, [list(stream) for stream in zip(*references, strict=True)]
    )
    return score.score, str(bleu.get_signature())


def our_rouge(predictions: list[str], references: list[list[str]]) -> object:
    """The three means."""
    return list(rouge(predictions, references).values())


def their_rouge(predictions: list[str], references: list[list[str]]) -> object:
    """As rouge-score is called, with the means that its users take."""
    scorer = RougeScorer(TYPES)
    if len(references[0]) == 1:
        scores = [scorer.score(r[0], p) for p, r in zip(predictions, references, strict=True)]
    else:
        scores = [scorer.score_multi(r, p) for p, r in zip(predictions, references, strict=True)]
    totals = dict.fromkeys(TYPES, 0.0)
    for score in scores:
        for name in TYPES:
            totals[name] += score[name].fmeasure
    return [total / len(predictions) for total in totals.values()]


METRICS: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "bleu": (our_bleu, their_bleu),
    "rouge": (our_rouge, their_rouge),
}
CASES = {
    "distinct": (PAIRS, 1),
    "repeated": (100, 1),
    "distinct, three references": (PAIRS, 3),
}


def cpu_seconds(function: Callable[..., object], corpus: Corpus) -> tuple[float, object]:
    """Of this process, and what the function gave."""
    gc.collect()  # neither is to clear up behind the other
    started = time.process_time()
    result = function(*corpus)
    return time.process_time() - started, result


def compare(
    ours: Callable[..., object], theirs: Callable[..., object], corpus: Corpus, repeats: int
) -> dict[str, object]:
    """Both in turn, each first as often as the other."""
    seconds: dict[Callable[..., object], list[float]] = {ours: [], theirs: []}
    for number in range(repeats + 1):
        results = []
        for function in [ours, theirs][:: 1 if number % 2 else -1]:
            spent, result = cpu_seconds(function, corpus)
            results.append(result)
            if number:  # the first turn imports
                seconds[function].append(spent)
        assert results[0] == results[1], f"other figures: {results}"
    each = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    medians = [statistics.median(values) for values in seconds.values()]
    return {
        "ours_s": round(medians[0], 3),
        "library_s": round(medians[1], 3),
        "ratio": round(medians[1] / medians[0], 3),
        "ratios": [round(min(each), 3), round(max(each), 3)],
    }


def main(arguments: Sequence[str]) -> int:
    """Measure every case."""
    parser = argparse.ArgumentParser(prog="python -m bench.text_metrics", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    found = {
        f"{metric}, {case}": compare(*functions, draw(*sizes), options.repeats)
        for case, sizes in CASES.items()
        for metric, functions in METRICS.items()
    }
    print(json.dumps({"pairs": PAIRS, "repeats": options.repeats, **found}))
    return 0 if all(float(str(f["ratio"])) >= MIN_RATIO for f in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

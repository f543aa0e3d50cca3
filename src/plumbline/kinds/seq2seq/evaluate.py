"""How well an encoder-decoder writes the targets of a split."""

from collections.abc import Sequence
from functools import partial

import torch

from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.language.evaluate import token_scores
from plumbline.kinds.seq2seq.model import Seq2Seq, Seq2SeqSpec
from plumbline.kinds.seq2seq.settings import Seq2SeqEvaluationConfig
from plumbline.kinds.seq2seq.train import PairRows, collate
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.metrics.perplexity import perplexity
from plumbline.metrics.rouge import rouge
from plumbline.metrics.text_overlap import corpus_bleu, exact_match
from plumbline.tracking.progress import tracked


def evaluate(job: EvaluationJob) -> Evaluation:
    """Write a target for every source by beam search; BLEU, ROUGE, perplexity of the references.

    Raises:
        DataError: the split has no pair.
    """
    spec, config, model = job.stored.spec, job.config, job.stored.model
    assert isinstance(spec, Seq2SeqSpec)
    assert isinstance(model, Seq2Seq)
    assert isinstance(config, Seq2SeqEvaluationConfig)
    cache, tokenizer = job.cache, job.stored.text
    rows = PairRows(cache, config.split, spec)
    bound = partial(collate, special_ids=spec.special_ids)
    loader = Loader(rows, bound, LoaderConfig(batch_size=config.batch_size), seed=0, shuffle=False)
    # Of the references given their sources: what is written does not enter it.
    likelihood = torch.cat([values for _, values, _ in token_scores(model, loader, job.device)])
    sources = [rows.source_ids(index).tolist() for index in range(len(rows))]
    predicted = tokenizer.decode_batch(write_targets(model, sources, config))
    texts = [[cache.text(int(number)) for number in pair] for pair in rows.numbers]
    references = [[target] for _, target in texts]
    bleu, signature = corpus_bleu(predicted, references, config.bleu_tokenizer)
    metrics = {
        "bleu": bleu,
        **rouge(predicted, references),
        "exact_match": exact_match(predicted, [target for _, target in texts]),
        "perplexity": perplexity(-float(likelihood.sum()), len(likelihood)),
        "pairs": float(len(rows)),
    }
    predictions = [
        {
            "kind": "translation",
            "prompt": source,
            "references": [target],
            "prediction": text,
            "correct": text == target,
        }
        for (source, target), text in zip(texts, predicted, strict=True)
    ]
    return Evaluation(metrics, predictions, details={"bleu_signature": signature})


def write_targets(
    model: Seq2Seq, sources: Sequence[Sequence[int]], config: Seq2SeqEvaluationConfig
) -> list[list[int]]:
    """Targets of framed sources, in their order; sources of similar length are computed together.

    Args:
        model: in evaluation mode.
        sources: token ids closed by eos.
        config: beams, length penalty, limit and batch size.
    """
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    targets: list[list[int]] = [[] for _ in sources]
    # Each beam is a row of what is computed.
    size = max(1, config.batch_size // config.beams)
    blocks = [order[at : at + size] for at in range(0, len(order), size)]
    for block in tracked(blocks, "writing", len(order), "targets", len):
        written = model.generate(
            [sources[i] for i in block],
            beams=config.beams,
            length_penalty=config.length_penalty,
            limit=config.max_new_tokens,
        )
        for index, target in zip(block, written, strict=True):
            targets[index] = target
    return targets

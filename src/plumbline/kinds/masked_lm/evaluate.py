"""How well a masked language model guesses what is hidden."""

import torch

from plumbline.batch import IGNORE_INDEX
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.language.evaluate import count_labels, token_scores, unigram_entropy
from plumbline.kinds.language.settings import LanguageEvaluationConfig
from plumbline.kinds.masked_lm.model import MaskedLm, MaskedLmSpec
from plumbline.kinds.masked_lm.train import bind_collate, open_rows
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.metrics.perplexity import perplexity


def evaluate(job: EvaluationJob) -> Evaluation:
    """Measure loss, perplexity and accuracy over the hidden tokens of a split.

    What is hidden depends on the sample alone. `unigram_loss` is what the frequencies of tokens in
    training give for the same tokens.

    Raises:
        DataError: the split has no text.
    """
    spec, config, model = job.stored.spec, job.config, job.stored.model
    assert isinstance(spec, MaskedLmSpec)
    assert isinstance(model, MaskedLm)
    assert isinstance(config, LanguageEvaluationConfig)
    settings = LoaderConfig(batch_size=config.batch_size)

    def open_split(split: str) -> Loader:
        rows = open_rows(job.cache, split, spec, seed=0, training=False)
        return Loader(rows, bind_collate(spec, 0), settings, seed=0, shuffle=False)

    loader = open_split(config.split)
    scored = list(token_scores(model, loader, job.device))
    likelihood = torch.cat([values for _, values, _ in scored])
    hits = torch.cat([hit for _, _, hit in scored])
    # A second pass hides the same tokens, since it depends on sample and epoch alone.
    labels = count_labels(loader, lambda batch: batch["labels"][batch["labels"] != IGNORE_INDEX])
    # What stands in the inputs in place of a word says nothing of how frequent words are.
    hidden = (spec.mask_id, spec.special_ids.pad)
    train = count_labels(
        open_split("train"),
        lambda batch: batch["input_ids"][~torch.isin(batch["input_ids"], torch.tensor(hidden))],
    )
    metrics = {
        "loss": -float(likelihood.mean()),
        "perplexity": perplexity(-float(likelihood.sum()), len(likelihood)),
        "token_accuracy": float(hits.double().mean()),
        "unigram_loss": unigram_entropy(train, labels),
        "tokens": float(len(likelihood)),
    }
    return Evaluation(metrics, [])

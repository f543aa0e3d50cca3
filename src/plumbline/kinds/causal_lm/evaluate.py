"""How well a causal language model knows what comes next."""

from functools import partial

import torch

from plumbline.batch import IGNORE_INDEX
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.causal_lm.sampling import continue_text
from plumbline.kinds.causal_lm.train import collate, open_rows
from plumbline.kinds.language.evaluate import count_labels, token_scores, unigram_entropy
from plumbline.kinds.language.settings import LanguageEvaluationConfig
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.metrics.perplexity import perplexity


def evaluate(job: EvaluationJob) -> Evaluation:
    """Measure loss, perplexity and accuracy per token of a split, and continue the prompts.

    Every token but the first is predicted once, in blocks as training saw them; `unigram_loss` is
    what the frequencies of tokens in training give.

    Raises:
        DataError: the split has no text, or a prompt no token.
    """
    spec, config, model = job.stored.spec, job.config, job.stored.model
    assert isinstance(spec, CausalLmSpec)
    assert isinstance(model, CausalLm)
    assert isinstance(config, LanguageEvaluationConfig)
    bound = partial(collate, pad=spec.special_ids.pad)
    settings = LoaderConfig(batch_size=config.batch_size)

    def open_split(split: str) -> Loader:
        rows = open_rows(job.cache, split, spec, seed=0, training=False)
        return Loader(rows, bound, settings, seed=0, shuffle=False)

    loader = open_split(config.split)
    # Of every batch [tokens]; kept, since the split is computed once for all figures.
    scored = list(token_scores(model, loader, job.device))
    likelihood = torch.cat([values for _, values, _ in scored])
    hits = torch.cat([hit for _, _, hit in scored])
    # The baseline knows how frequent each token was in training, and no context.
    labels, train = (
        count_labels(part, lambda batch: batch["labels"][batch["labels"] != IGNORE_INDEX])
        for part in (loader, open_split("train"))
    )
    loss = -float(likelihood.mean())
    metrics = {
        "loss": loss,
        "perplexity": perplexity(-float(likelihood.sum()), len(likelihood)),
        "token_accuracy": float(hits.double().mean()),
        "unigram_loss": unigram_entropy(train, labels),
        "tokens": float(len(likelihood)),
    }
    predictions: list[Row] = []
    cut: dict[str, int] = {}
    for prompt in config.prompts:
        said = continue_text(model, spec, job.stored.text, prompt, config.sampling)
        predictions.append({"kind": "continuation", "prompt": prompt, "prediction": said.text})
        if said.cut_tokens:
            cut[prompt] = said.cut_tokens
    details: dict[str, object] = {"sampling": config.sampling.model_dump()}
    if cut:
        details["cut_tokens_of_prompts"] = cut
    return Evaluation(metrics, predictions, details=details)

"""Task `causal_lm`: which token comes next, in running text or in answers to questions."""

from collections.abc import Sequence
from functools import partial

import torch

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places, sample_numbers
from plumbline.errors import DataError
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.causal_lm.settings import CausalLmConfig, CausalLmTaskConfig
from plumbline.kinds.language.chat import read_chat
from plumbline.kinds.language.chat_rows import ChatRows
from plumbline.kinds.language.loss import chosen_loss, language_loss, settle
from plumbline.kinds.language.packing import Collate, join_rows, packed_collate, tried_ids
from plumbline.kinds.language.rows import TokenBlocks, TokenRows, choose_rows
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import SampleSource, pad_rows
from plumbline.loading.random import keyed_seed
from plumbline.models.packed import Packing, takes_whole_rows
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, Task, TrainingJob, perplexity_of


def collate(samples: Sequence[Sample], *, pad: int) -> Batch:
    """Pad rows at their end.

    Returns:
        input_ids [batch, seq] without each row's last token; labels [batch, seq], the token after
        each input, `IGNORE_INDEX` where none counts, and `labelled_places`; sample_index [batch].
    """
    # Position i is given token i and says token i + 1: the shift happens here alone.
    ids = pad_rows([sample["ids"][:-1] for sample in samples], pad)
    rows = pad_rows([sample["labels"][1:] for sample in samples], IGNORE_INDEX)
    labels = torch.from_numpy(rows)
    return {
        "input_ids": torch.from_numpy(ids),
        "labels": labels,
        **labelled_places(labels),
        "sample_index": torch.from_numpy(sample_numbers(samples)),
    }


def pack(samples: Sequence[Sample], *, pad: int, one_row: bool) -> Batch:
    """Lay rows out one behind the other, none of which sees another.

    Returns:
        input_ids, labels as `collate` gives them, of [rows, seq] with several samples in each;
        and what else `join_rows` gives.
    """
    # Shifted before they are joined: the last token of a sample does not say the next one's first.
    ids = [sample["ids"][:-1] for sample in samples]
    labels = [sample["labels"][1:] for sample in samples]
    return join_rows(samples, ids, labels, pad=pad, one_row=one_row)


def open_rows(
    cache: TrainingCache, split: str, spec: CausalLmSpec, *, seed: int, training: bool
) -> SampleSource:
    """The samples of a split as the spec of a model says it reads them.

    Raises:
        DataError: the split has none.
    """
    if spec.text == "turns":
        return ChatRows(cache, split, spec.block_size)
    if spec.packed:
        return TokenBlocks(cache, split, spec.block_size, seed=seed, training=training)
    asks = spec.text == "question_answer"
    return TokenRows(cache, split, spec.block_size, question_answer=asks)


def build(
    context: JobContext, model_config: CausalLmConfig, config: CausalLmTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        DataError: the dataset has no text, or a split none that fits.
    """
    cache, seed = context.cache, context.seed
    if cache.facts["special_ids"] is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids, chat = SpecialIds(**cache.facts["special_ids"]), None
    if config.text == "turns":
        chat, special_ids = read_chat(cache, special_ids)
    rows = choose_rows(cache, config, may_run=config.text == "text")
    spec = CausalLmSpec(
        model=model_config.without_sources(),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        text=config.text,
        chat=chat,
        block_size=config.block_size,
        packed=rows == "stream",
    )
    sources = context.open_sources(model_config.sources(), read_ids={"decoder"})
    # The model's weights, made below, are the next draws.
    torch.manual_seed(keyed_seed(seed, "weights"))
    bound = partial(collate, pad=special_ids.pad)
    chosen = partial(
        language_loss,
        token_loss=chosen_loss(config),
        label_smoothing=config.label_smoothing,
    )
    model = CausalLm(model_config, spec.vocab_size, special_ids.pad, sources.origins)
    packed = pack_rows(model, spec, bound) if rows == "packed" else None
    model.whole_rows = takes_whole_rows(model.decoder, spec.block_size)
    return TrainingJob(
        model=model,
        task=Task("causal_lm", packed or bound, chosen, settle=settle),
        train=open_rows(cache, "train", spec, seed=seed, training=True),
        validation=(
            open_rows(cache, "val", spec, seed=seed, training=False)
            if context.has_validation
            else None
        ),
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs=sources.digests,
        # Cross-entropy without smoothing, so that the perplexity is that of the data.
        validation_task=Task("causal_lm", bound, language_loss, loss_metrics=perplexity_of),
        by_length=rows == "packed" and packed is None,
    )


def pack_rows(model: CausalLm, spec: CausalLmSpec, padded: Collate) -> Collate | None:
    """What makes batches of packed rows; None where the model takes none."""
    return packed_collate(
        model,
        model.decoder,
        [Packing("argument"), Packing("relative")],
        longest=spec.block_size,
        padded=padded,
        packed=partial(pack, pad=spec.special_ids.pad),
        tried=[{"index": 0, "ids": ids, "labels": ids} for ids in tried_ids(spec.vocab_size, 1)],
    )

"""Task `masked_lm`: which tokens stand in the places that are hidden, drawn anew each epoch."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places, sample_numbers
from plumbline.errors import DataError
from plumbline.kinds.language.loss import chosen_loss, language_loss, settle
from plumbline.kinds.language.packing import Collate, join_rows, packed_collate, tried_ids
from plumbline.kinds.language.rows import Ids, TokenBlocks, TokenRows, choose_rows
from plumbline.kinds.masked_lm.model import MaskedLm, MaskedLmSpec
from plumbline.kinds.masked_lm.settings import MaskedLmConfig, MaskedLmTaskConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import SampleSource, pad_rows
from plumbline.loading.masks import padding_mask
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.models.packed import Packing
from plumbline.tokenization.tokenizer import SPECIAL_TOKENS, SpecialIds, mask_id
from plumbline.training.task import JobContext, Task, TrainingJob, perplexity_of


def mask_tokens(
    ids: Ids, spec: MaskedLmSpec, random: np.random.Generator, first_word: int
) -> tuple[Ids, Ids]:
    """Choose tokens to guess and hide them.

    Args:
        ids: [seq], framed.
        spec: share of tokens, ids of the mask and of what is never hidden.
        random: keyed by (seed, epoch, sample).
        first_word: the lowest id that may replace a token.

    Returns:
        The ids with 80 % of the chosen ones hidden, 10 % replaced and 10 % kept; and the labels,
        `IGNORE_INDEX` where nothing is to be guessed. At least one token is chosen.

    Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1; drawn anew: Liu et al. 2019,
    arXiv:1907.11692, section 4.1.
    """
    special = [spec.special_ids.pad, spec.special_ids.bos, spec.special_ids.eos]
    words = np.flatnonzero(~np.isin(ids, special))  # [words]: their positions
    chosen = words[random.random(len(words)) < spec.masked_share]
    # A row with nothing to guess would count for nothing.
    if not len(chosen) and len(words):
        chosen = words[[int(random.integers(len(words)))]]
    labels = np.full(len(ids), IGNORE_INDEX, np.int64)
    labels[chosen] = ids[chosen]
    # A copy: the ids are those of the cache, which is mapped and read-only.
    hidden = ids.astype(np.int64)
    fate = random.random(len(chosen))  # [chosen]: hidden, replaced or kept
    hidden[chosen[fate < 0.8]] = spec.mask_id
    replaced = chosen[(fate >= 0.8) & (fate < 0.9)]
    hidden[replaced] = random.integers(first_word, spec.vocab_size, len(replaced))
    return hidden, labels


def _hide(
    samples: Sequence[Sample], spec: MaskedLmSpec, seed: int, first_word: int
) -> tuple[list[Ids], list[Ids]]:
    """The ids of samples, with some hidden, and their labels: [length] each."""
    rows = [
        # Keyed by sample and epoch: what is hidden does not depend on the batch.
        mask_tokens(
            sample["ids"][: spec.block_size],
            spec,
            keyed_generator(seed, "mask", sample["epoch"], sample["index"]),
            first_word,
        )
        for sample in samples
    ]
    return [ids for ids, _ in rows], [labels for _, labels in rows]


def collate(samples: Sequence[Sample], *, spec: MaskedLmSpec, seed: int, first_word: int) -> Batch:
    """Hide tokens and pad rows.

    Returns:
        input_ids, attention_mask, labels [batch, seq]; sample_index [batch].
    """
    rows, labels = _hide(samples, spec, seed, first_word)
    lengths = torch.tensor([len(ids) for ids in rows])
    input_ids = pad_rows(rows, spec.special_ids.pad)
    joined = torch.from_numpy(pad_rows(labels, IGNORE_INDEX))
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": padding_mask(lengths, input_ids.shape[1]).long(),
        "labels": joined,
        **labelled_places(joined),
        "sample_index": torch.from_numpy(sample_numbers(samples)),
    }


def pack(
    samples: Sequence[Sample], *, spec: MaskedLmSpec, seed: int, first_word: int, one_row: bool
) -> Batch:
    """Hide the same tokens, and lay rows out one behind the other, none of which sees another.

    Returns:
        input_ids, labels [rows, seq] with several samples in each row, and what else `join_rows`
        gives.
    """
    ids, labels = _hide(samples, spec, seed, first_word)
    return join_rows(samples, ids, labels, pad=spec.special_ids.pad, one_row=one_row)


def open_rows(
    cache: TrainingCache, split: str, spec: MaskedLmSpec, *, seed: int, training: bool
) -> SampleSource:
    """The samples of a split as the spec of a model says it reads them.

    Raises:
        DataError: the split has none.
    """
    if spec.packed:
        return TokenBlocks(cache, split, spec.block_size, seed=seed, training=training)
    return TokenRows(cache, split, spec.block_size, question_answer=False)


def bind_collate(spec: MaskedLmSpec, seed: int) -> partial[Batch]:
    """`collate` with its settings; words that may replace others come after the special tokens."""
    first_word = len(SPECIAL_TOKENS["bpe"])
    return partial(collate, spec=spec, seed=seed, first_word=first_word)


def build(
    context: JobContext, model_config: MaskedLmConfig, config: MaskedLmTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: the tokenizer has no mask.
        DataError: the dataset has no text, or a split none that fits.
    """
    cache, seed = context.cache, context.seed
    tokenizer = context.tokenizer()
    if tokenizer is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids = SpecialIds.model_validate(cache.facts["special_ids"])
    rows = choose_rows(cache, config)
    spec = MaskedLmSpec(
        model=model_config.without_sources(),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        mask_id=mask_id(tokenizer),
        masked_share=config.masked_share,
        block_size=config.block_size,
        packed=rows == "stream",
    )
    sources = context.open_sources(model_config.sources(), read_ids={"encoder"})
    torch.manual_seed(keyed_seed(seed, "weights"))
    bound = bind_collate(spec, seed)
    chosen = partial(language_loss, token_loss=chosen_loss(config))
    model = MaskedLm(model_config, spec.vocab_size, special_ids.pad, sources.origins)
    packed = pack_rows(model, spec, seed) if rows == "packed" else None
    return TrainingJob(
        model=model,
        task=Task("masked_lm", packed or bound, chosen, settle=settle),
        train=open_rows(cache, "train", spec, seed=seed, training=True),
        validation=(
            open_rows(cache, "val", spec, seed=seed, training=False)
            if context.has_validation
            else None
        ),
        spec=spec,
        tokenizer=tokenizer,
        inputs=sources.digests,
        validation_task=Task("masked_lm", bound, language_loss, loss_metrics=perplexity_of),
        by_length=rows == "packed" and packed is None,
    )


def pack_rows(model: MaskedLm, spec: MaskedLmSpec, seed: int) -> Collate | None:
    """What makes batches of packed rows; None where the model takes none."""
    padded = bind_collate(spec, seed)
    pad = spec.special_ids.pad
    return packed_collate(
        model,
        model.encoder,
        # Those of RoBERTa's type count from behind the id of padding.
        [Packing("argument"), Packing("argument", first=pad + 1), Packing("relative")],
        longest=spec.block_size,
        padded=padded,
        packed=partial(pack, **padded.keywords),
        tried=[{"index": 0, "epoch": 0, "ids": ids} for ids in tried_ids(spec.vocab_size)],
    )

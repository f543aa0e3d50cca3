"""Task `seq2seq`: a source text in, its target text out."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places, sample_numbers
from plumbline.errors import DataError
from plumbline.kinds.language.loss import chosen_loss, language_loss, settle
from plumbline.kinds.language.packing import Collate, packed_collate, tried_ids
from plumbline.kinds.language.rows import Ids
from plumbline.kinds.seq2seq.model import Seq2Seq, Seq2SeqSpec
from plumbline.kinds.seq2seq.settings import Seq2SeqConfig, Seq2SeqTaskConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import pad_rows
from plumbline.loading.masks import padding_mask
from plumbline.loading.packing import Layout
from plumbline.loading.random import keyed_seed
from plumbline.models.packed import Packing
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.frozen_features import say_if_frozen
from plumbline.training.task import JobContext, Task, TrainingJob, perplexity_of


class PairRows:
    """The rows of a split that have a source and a target."""

    def __init__(self, cache: TrainingCache, split: str, spec: Seq2SeqSpec) -> None:
        """Find the rows.

        Raises:
            DataError: there is none.
        """
        self._cache, self._spec = cache, spec
        rows = cache.rows(split)
        pairs = np.stack([rows["source"], rows["target"]], axis=1)
        self.numbers = pairs[(pairs >= 0).all(axis=1)]
        """[pairs, 2] text numbers of source and target."""
        if not len(self.numbers):
            raise DataError(f"{cache.folder}: no row with source and target in split {split!r}")
        lengths = cache.text_lengths()[self.numbers]
        for at, what in enumerate(("source", "target")):
            setting = f"max_{what}_tokens"
            limit: int = getattr(spec, setting)
            cache.say_cut(split, lengths[:, at], limit, f"{what}s", f"task.{setting}")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.numbers)

    def length(self, index: int) -> int:
        """Tokens of source and target together, framed and cut."""
        source, target = self._cache.text_lengths()[self.numbers[index]]
        spec = self._spec
        # Each is closed by an eos, which comes on top of the limit.
        return int(min(source, spec.max_source_tokens) + min(target, spec.max_target_tokens)) + 2

    def source_ids(self, index: int) -> Ids:
        """The framed source: cut, then eos."""
        ids = self._cache.ids(int(self.numbers[index, 0]))[: self._spec.max_source_tokens]
        return np.append(ids, self._spec.special_ids.eos)

    def sample(self, index: int, epoch: int) -> Sample:
        """Source and target ids, each cut and closed by eos."""
        target = self._cache.ids(int(self.numbers[index, 1]))[: self._spec.max_target_tokens]
        labels = np.append(target, self._spec.special_ids.eos)
        return {"index": index, "source": self.source_ids(index), "labels": labels}


def collate(samples: Sequence[Sample], *, special_ids: SpecialIds) -> Batch:
    """Pad sources and targets.

    Returns:
        input_ids, attention_mask [batch, source_seq]; labels [batch, target_seq], `IGNORE_INDEX`
        in padding; decoder_input_ids: the labels one place later behind bos; sample_index.
    """
    input_ids = pad_rows([sample["source"] for sample in samples], special_ids.pad)
    lengths = torch.tensor([len(sample["source"]) for sample in samples])
    labels = pad_rows([sample["labels"] for sample in samples], IGNORE_INDEX)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": padding_mask(lengths, input_ids.shape[1]).long(),
        "decoder_input_ids": torch.from_numpy(shift_right(labels, special_ids)),
        "labels": torch.from_numpy(labels),
        **labelled_places(torch.from_numpy(labels)),
        "sample_index": torch.from_numpy(sample_numbers(samples)),
    }


def pack(samples: Sequence[Sample], *, special_ids: SpecialIds, one_row: bool) -> Batch:
    """Lay sources out one behind the other, targets likewise; no pair sees another.

    Returns:
        input_ids, source_position_ids [rows, source_seq]; labels, decoder_input_ids, position_ids
        [rows, target_seq]; spans of targets and sources, see `Layout.spans`; sample_index
        [samples].
    """
    sources, targets = ([len(s[name]) for s in samples] for name in ("source", "labels"))
    layout = Layout.of(np.array([sources, targets]).T, one_row=one_row)
    labels = layout.join([sample["labels"] for sample in samples], IGNORE_INDEX)
    # Each for itself: its first input is bos, not the last label of the one before.
    shifted = [shift_right(sample["labels"][None], special_ids)[0] for sample in samples]
    return {
        "input_ids": layout.join([sample["source"] for sample in samples], special_ids.pad),
        "source_position_ids": layout.positions(sources),
        "decoder_input_ids": layout.join(shifted, special_ids.pad),
        "labels": labels,
        **labelled_places(labels),
        "position_ids": layout.positions(targets),
        "spans": layout.spans(targets, sources),
        "sample_index": torch.from_numpy(sample_numbers(samples)),
    }


def shift_right(labels: Ids, special_ids: SpecialIds) -> Ids:
    """Decoder inputs [batch, seq] of labels [batch, seq]: bos, then all but the last label."""
    shifted = np.full_like(labels, special_ids.bos)
    # `IGNORE_INDEX` is no id: what pads labels becomes what pads inputs.
    shifted[:, 1:] = np.where(labels[:, :-1] == IGNORE_INDEX, special_ids.pad, labels[:, :-1])
    return shifted


def build(
    context: JobContext, model_config: Seq2SeqConfig, config: Seq2SeqTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        DataError: the dataset has no text, or a split no pair.
    """
    cache, seed = context.cache, context.seed
    if cache.facts["special_ids"] is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids = SpecialIds(**cache.facts["special_ids"])
    spec = Seq2SeqSpec(
        model=model_config.without_sources(),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        max_source_tokens=config.max_source_tokens,
        max_target_tokens=config.max_target_tokens,
    )
    sources = context.open_sources(model_config.sources(), read_ids={"net"})
    torch.manual_seed(keyed_seed(seed, "weights"))
    bound = partial(collate, special_ids=special_ids)
    chosen = partial(
        language_loss,
        token_loss=chosen_loss(config),
        label_smoothing=config.label_smoothing,
    )
    model = Seq2Seq(model_config, spec.vocab_size, special_ids, sources.origins)
    encoder = model.net.get_encoder()
    # Where it lies, each architecture says itself.
    name = next(name for name, module in model.named_modules() if module is encoder)
    say_if_frozen(context, name, "it gives each source as many vectors as that is long")
    packed = pack_rows(model, spec, bound) if config.rows == "packed" else None
    return TrainingJob(
        model=model,
        task=Task("seq2seq", packed or bound, chosen, settle=settle),
        train=PairRows(cache, "train", spec),
        validation=PairRows(cache, "val", spec) if context.has_validation else None,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs=sources.digests,
        # Validation measures the likelihood itself, so that its perplexity is one.
        validation_task=Task("seq2seq", bound, language_loss, loss_metrics=perplexity_of),
        by_length=config.rows == "packed" and packed is None,
    )


def pack_rows(model: Seq2Seq, spec: Seq2SeqSpec, padded: Collate) -> Collate | None:
    """What makes batches of packed rows; None where the model takes none."""
    return packed_collate(
        model,
        model.net,
        [Packing("table"), Packing("relative")],
        longest=max(spec.max_source_tokens, spec.max_target_tokens) + 1,  # with eos
        padded=padded,
        packed=partial(pack, special_ids=spec.special_ids),
        tried=[
            {"index": 0, "source": ids, "labels": ids[::-1]} for ids in tried_ids(spec.vocab_size)
        ],
    )

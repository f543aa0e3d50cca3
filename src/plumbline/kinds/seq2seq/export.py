"""The bundle of an encoder-decoder: the source once, then the target token by token."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from plumbline.export.graphs import IDS_AXES, GraphSpec, ids_examples, pair_mask
from plumbline.export.parity import Parity, common_prefix, larger, until
from plumbline.export.plan import READERS, GraphPlan, Readme, SelftestSample, max_difference, spread
from plumbline.export.runtime.model import Model
from plumbline.export.runtime.scores import log_softmax
from plumbline.kinds.seq2seq.model import (
    EncoderDecoder,
    Seq2Seq,
    Seq2SeqSpec,
    SourceOutput,
)
from plumbline.kinds.seq2seq.runtime import Seq2SeqTask
from plumbline.kinds.seq2seq.settings import Seq2SeqExportConfig
from plumbline.kinds.seq2seq.train import PairRows
from plumbline.loading.loader import pad_rows
from plumbline.loading.masks import padding_mask
from plumbline.metrics.text_overlap import corpus_bleu
from plumbline.tracking.progress import tracked

BATCH_PAIRS = 32

Floats = NDArray[np.float32]


class SourceGraph(nn.Module):
    """The encoder."""

    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        self.encoder: Callable[..., SourceOutput] = net.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map ids and mask [batch, seq] to hidden states [batch, seq, width]."""
        mask = pair_mask(attention_mask)
        return self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state


class TargetGraph(nn.Module):
    """The decoder over the whole target so far; only the last place has its logits computed."""

    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        self.net: EncoderDecoder = net

    def forward(self, hidden: Tensor, attention_mask: Tensor, target_ids: Tensor) -> Tensor:
        """Map hidden states, their mask [batch, source] and a target to logits [batch, vocab]."""
        batch, length = target_ids.shape
        # Explicit masks: the model's own would look at the lengths while they are traced.
        places = torch.arange(length)
        causal = (places[None, :] <= places[:, None])[None, None].expand(batch, 1, length, length)
        source = attention_mask.bool()[:, None, None, :]  # [batch, 1, 1, source]
        out = self.net(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=source.expand(batch, 1, length, hidden.shape[1]),
            decoder_input_ids=target_ids,
            decoder_attention_mask=causal,
            use_cache=False,
        )
        return out.logits[:, -1]


class Seq2SeqPlan(GraphPlan[Seq2SeqExportConfig, Seq2Seq, Seq2SeqSpec]):
    """What is special in the bundle of an encoder-decoder."""

    packages = ("tokenizers",)
    runtime = ("plumbline/kinds/seq2seq/runtime.py", *READERS["text"])
    readme = Readme(
        title="A model that writes one text for another",
        answer="It holds the text, its score (log-likelihood over length ** length_penalty) and "
        "whether it came to its end or was cut off (`finish`).",
        example={"source": "a man and a dog", "beams": 2},
        graphs={
            "encoder": "the source's tokens to hidden states",
            "decoder": "hidden states and the target so far to the logits of its next token",
        },
    )
    _reference: tuple[list[list[int]], list[Floats]] | None = None

    @override
    def contract(self) -> dict[str, object]:
        spec, net, config = self.stored.spec, self.stored.model.net, self.config
        # A checkpoint may bring tokens that it never says.
        never = net.generation_config.bad_words_ids or []
        return {
            "task": "seq2seq",
            "text": {
                "special_ids": spec.special_ids.model_dump(),
                "max_source_tokens": spec.max_source_tokens,
            },
            "decoding": {
                "beams": config.beams,
                "length_penalty": config.length_penalty,
                "max_new_tokens": config.max_new_tokens,
            },
            "generation": {
                "start": spec.special_ids.bos,
                "eos": spec.special_ids.eos,
                "suppressed": [ids[0] for ids in never if len(ids) == 1],
                "max_positions": self._limit(10**9),
            },
        }

    def _limit(self, tokens: int) -> int:
        """As many tokens, or as the decoder has positions."""
        # Relative positions have no limit, and no such setting.
        return min(tokens, getattr(self.stored.model.net.config, "max_position_embeddings", tokens))

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        net, spec = self.stored.model.net, self.stored.spec
        inputs, dynamic = ids_examples(spec.vocab_size)
        width = int(net.config.hidden_size)
        hidden = torch.linspace(-1, 1, 2 * 6 * width).view(2, 6, width)
        target = torch.arange(8).view(2, 4) % spec.vocab_size
        decoder_inputs = {
            "hidden": hidden,
            "attention_mask": inputs["attention_mask"],
            "target_ids": target,
        }
        decoder_axes = {
            "hidden": IDS_AXES,
            "attention_mask": IDS_AXES,
            "target_ids": {0: "batch", 1: "target"},
        }
        return {
            "encoder": GraphSpec(SourceGraph(net).eval(), inputs, dynamic, ["hidden"]),
            "decoder": GraphSpec(TargetGraph(net).eval(), decoder_inputs, decoder_axes, ["logits"]),
        }

    def _pairs(self) -> PairRows:
        return PairRows(self.cache, self.config.split, self.stored.spec)

    def _targets(self, sources: list[list[int]]) -> list[list[int]]:
        """What the checkpoint writes greedily, with eos unless cut off at the longest length."""
        limit, eos = self._limit(self.config.parity_tokens), self.stored.spec.special_ids.eos
        written: list[list[int]] = []
        for at in range(0, len(sources), BATCH_PAIRS):
            written += self.stored.model.generate(
                sources[at : at + BATCH_PAIRS], beams=1, length_penalty=1.0, limit=limit
            )
        # `generate` takes eos off; whoever stopped before the limit had said it.
        return [ids if len(ids) == limit else [*ids, eos] for ids in written]

    @torch.inference_mode()
    def _refer(self, sources: list[list[int]]) -> tuple[list[list[int]], list[Floats]]:
        """The checkpoint's targets, and its logits [tokens, vocab] along them, one at a time."""
        targets, logits = self._targets(sources), []
        start = self.stored.spec.special_ids.bos
        # One by one, without padding: so padding on the other side is part of what is compared.
        for source, target in zip(sources, targets, strict=True):
            ids = torch.tensor([source])
            begun = torch.tensor([[start, *target[:-1]]])
            seen = self.stored.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=begun
            )
            logits.append(seen[0].numpy())  # [tokens, vocab]
        return targets, logits

    @override
    def measure(self, exported: Model) -> Parity:
        """The exported side writes many padded sources at a time."""
        task = exported.task
        assert isinstance(task, Seq2SeqTask)
        pairs = self._pairs()
        places = spread(len(pairs), self.config.parity_samples)
        sources = [pairs.source_ids(place).tolist() for place in places]
        if self._reference is None:
            self._reference = self._refer(sources)
        targets, known = self._reference
        eos, limit = self.stored.spec.special_ids.eos, self._limit(self.config.parity_tokens)
        worst, equal, written = 0.0, 0, []
        starts = range(0, len(sources), BATCH_PAIRS)
        for at in tracked(starts, "comparing", len(starts), "batches"):
            block = range(at, min(at + BATCH_PAIRS, len(sources)))
            tokens, logits = _write(task, [sources[row] for row in block], limit)
            for row, ids, scores in zip(block, tokens, logits, strict=True):
                written.append(until(ids, eos))
                common = common_prefix(targets[row], written[-1])
                equal += common
                # Beyond the first different token the two see different texts.
                compared = min(common + 1, len(targets[row]), len(written[-1]))
                worst = larger(worst, max_difference([known[row][:compared]], [scores[:compared]]))
        total = sum(len(ids) for ids in targets)
        references = [[self.cache.text(int(pairs.numbers[place, 1]))] for place in places]
        # A figure of whole texts: it moves only where tokens differ.
        bleu = [self._bleu(side, references) for side in (targets, written)]
        return Parity(
            samples=len(sources),
            decision="token",
            decisions=total,
            agreement=equal / total,
            metric="bleu",
            metric_known=bleu[0],
            metric_found=bleu[1],
            max_input_difference=self._source_difference(task, pairs, places),
            max_logits_difference=worst,
        )

    def _bleu(self, targets: list[list[int]], references: list[list[str]]) -> float:
        """BLEU as a share of 1; 0 for both sides where the references are too short for it."""
        score, _ = corpus_bleu(self.stored.text.decode_batch(targets), references)
        return (score or 0.0) / 100

    def _source_difference(self, task: Seq2SeqTask, pairs: PairRows, places: list[int]) -> float:
        worst = 0.0
        for place in places:
            source = self.cache.text(int(pairs.numbers[place, 0]))
            known = pairs.source_ids(place)[None].astype(np.int64)
            worst = larger(worst, max_difference([known], task.inputs({"source": source})[:1]))
        return worst

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        """Write by beam search, as the contract says."""
        pairs, config, samples = self._pairs(), self.config, []
        limit = self._limit(min(config.max_new_tokens, config.parity_tokens))
        for place in spread(len(pairs), config.selftest_samples):
            ids = self.stored.model.generate(
                [pairs.source_ids(place).tolist()],
                beams=config.beams,
                length_penalty=config.length_penalty,
                limit=limit,
            )[0]
            source = self.cache.text(int(pairs.numbers[place, 0]))
            request = {"source": source, "max_new_tokens": limit}
            samples.append(SelftestSample(request, "", {"text": self.stored.text.decode(ids)}))
        return samples


def _write(
    task: Seq2SeqTask, sources: list[list[int]], limit: int
) -> tuple[list[list[int]], list[Floats]]:
    """Greedy targets of padded sources, and the logits [tokens, vocab] that they come from."""
    rules = task.contract["generation"]
    # Whatever id it is: the mask keeps padding out.
    ids = pad_rows([np.array(source) for source in sources], 0)
    lengths = torch.tensor([len(source) for source in sources])
    mask = padding_mask(lengths, ids.shape[1]).long().numpy()
    hidden = task.encode([ids, mask])  # [batch, source, width], once
    tokens = np.full((len(sources), 1), rules["start"], np.int64)
    steps: list[Floats] = []
    ended = np.zeros(len(sources), bool)
    while len(steps) < limit and not ended.all():
        steps.append(task.decode(hidden, mask, tokens))
        scores = task.ruled(log_softmax(steps[-1]))
        tokens = np.concatenate([tokens, scores.argmax(axis=1)[:, None]], axis=1)
        # Those that have ended go on with the others; `until` cuts what they say.
        ended |= tokens[:, -1] == rules["eos"]
    logits = np.stack(steps, axis=1)  # [batch, tokens, vocab]
    return tokens[:, 1:].tolist(), list(logits)


PLAN = Seq2SeqPlan

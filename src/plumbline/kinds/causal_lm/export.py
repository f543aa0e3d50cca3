"""The bundle of a causal language model: a decoder with a cache."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.batch import IGNORE_INDEX
from plumbline.data.turns import Turn
from plumbline.errors import ExportError
from plumbline.export.graphs import (
    GraphSpec,
    decoder_sizes,
    text_decoder_spec,
)
from plumbline.export.parity import Parity, common_prefix, larger, until
from plumbline.export.plan import (
    READERS,
    BundleSource,
    Readme,
    SelftestSample,
    max_difference,
    spread,
)
from plumbline.export.runtime.model import Model
from plumbline.export.runtime.scores import log_softmax
from plumbline.kinds.causal_lm import train as causal_lm
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.causal_lm.runtime import CausalTask
from plumbline.kinds.causal_lm.sampling import continue_text, prompt_ids
from plumbline.kinds.causal_lm.settings import CausalLmExportConfig
from plumbline.kinds.language.export import CHAT_RUNTIME, TEXT_CHARS, Floats, LanguagePlan
from plumbline.kinds.language.settings import SamplingConfig
from plumbline.loading.turns_reader import CachedTurns
from plumbline.tracking.progress import tracked

BATCH_ROWS = 64
Cut = tuple[list[int], int]
"""Token ids, and how many of them are given."""


class CausalPlan(LanguagePlan[CausalLmExportConfig, CausalLm, CausalLmSpec]):
    """What is special in the bundle of a causal language model."""

    runtime = (
        "plumbline/kinds/causal_lm/runtime.py",
        "plumbline/kinds/language/runtime.py",
        *READERS["text"],
    )
    readme = Readme(
        title="A model that goes on from a text",
        answer="It holds the text that is added and why it ended (`finish`: end, stop or length); "
        "`--temperature 0` always takes the likeliest token, and equal seeds give equal texts.",
        example={"prompt": "Once", "max_new_tokens": 20, "temperature": 0.8, "seed": 1},
        graphs={"decoder": "tokens to logits, with a key-value cache"},
    )
    _reference: tuple[list[list[int]], list[Floats]] | None = None

    def __init__(
        self, source: BundleSource[CausalLm, CausalLmSpec], config: CausalLmExportConfig
    ) -> None:
        """See `BundlePlan`."""
        super().__init__(source, config)
        if self.stored.spec.chat:
            self.runtime = (*self.runtime, *CHAT_RUNTIME)
            self.packages = (*self.packages, "jinja2")
            turns = " `messages`, a list of turns with `role` and `content`, stands for `prompt`."
            self.readme = replace(self.readme, answer=self.readme.answer + turns)

    @property
    def _column(self) -> str:
        return "question" if self.stored.spec.text == "question_answer" else "text"

    def _talks(self, count: int) -> list[list[Turn]]:
        """Conversations of the split, each up to its first answer."""
        numbers = self.cache.rows(self.config.split)["turns"]
        numbers = numbers[numbers >= 0]
        cached = CachedTurns(self.cache.folder)
        talks = [cached.turns(int(numbers[at])) for at in spread(len(numbers), count)]
        return [_shorten(turns) for turns in talks]

    def _prompts(self, count: int) -> list[str] | list[list[Turn]]:
        """What a bundle can be asked."""
        if self.stored.spec.chat:
            return self._talks(count)
        return self._texts(self._column, count)

    def _prompt_difference(self, task: CausalTask) -> float:
        """Of the script's ids of prompts from the pipeline's own."""
        if self.stored.spec.chat is None:
            return self._text_difference(task.text, self._column)
        worst = 0.0
        for turns in self._talks(self.config.parity_samples):
            known = prompt_ids(self.stored.spec, self.stored.text, turns)[-self._positions + 1 :]
            (found,) = task.inputs({"messages": turns})
            # [1, tokens] both; of another length they differ by infinity.
            worst = larger(worst, max_difference([np.array([known], np.int64)], [found]))
        return worst

    @property
    def _positions(self) -> int:
        return int(self.stored.model.decoder.config.max_position_embeddings)

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        rows = spec.text if spec.text != "text" else "rows"
        chat = {"chat": spec.chat.model_dump()} if spec.chat else {}
        return {
            "task": "causal_lm",
            "text": {
                "special_ids": spec.special_ids.model_dump(),
                "framing": "stream" if spec.packed else rows,
                "max_positions": self._positions,
            },
            "sampling": self.config.sampling.model_dump(mode="json"),
            "decoder": self.description(),
            **chat,
        }

    @override
    def description(self) -> dict[str, object]:
        return asdict(decoder_sizes(self.stored.model.decoder))

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        decoder = self.stored.model.decoder
        return {"decoder": text_decoder_spec(decoder, decoder_sizes(decoder))}

    def _sequences(self) -> list[Cut]:
        """Samples of the split as evaluation reads them, cut to what is given and as much more."""
        spec, split = self.stored.spec, self.config.split
        rows = causal_lm.open_rows(self.cache, split, spec, seed=0, training=False)
        # As many are given as are compared, and both together fit the positions.
        most = min(self.config.prompt_tokens, self._positions // 2)
        found: list[Cut] = []
        for place in spread(len(rows), self.config.parity_samples):
            sample = rows.sample(place, 0)
            ids = [int(token) for token in sample["ids"]]
            # At least one token stands behind what is given: else there is nothing to compare.
            given = min(most, len(ids) - 1)
            if spec.text != "text":
                # The first labelled token begins the answer; what stands before it is given.
                given = int(np.argmax(sample["labels"] != IGNORE_INDEX))
            if 0 < given < len(ids) and given + most <= self._positions:
                found.append((ids[: given + most], given))
        if not found:
            raise ExportError(f"{self.cache.folder}: no sample in split {split!r} is long enough")
        return found

    @torch.inference_mode()
    def _refer(self, sequences: list[Cut]) -> tuple[list[list[int]], list[Floats]]:
        """What the checkpoint adds greedily, and its logits [tokens, vocab] of what is there."""
        model, special = self.stored.model, self.stored.spec.special_ids
        added: list[list[int]] = [[] for _ in sequences]
        logits: list[Floats] = [np.zeros((0, 0), np.float32) for _ in sequences]
        # Of equal length: nothing is padded, so no row depends on its neighbours' lengths.
        for rows in _alike(sequences):
            given = sequences[rows[0]][1]
            ids = torch.tensor([sequences[row][0] for row in rows])
            out = model.decoder.generate(
                ids[:, :given],
                attention_mask=torch.ones_like(ids[:, :given]),
                max_new_tokens=ids.shape[1] - given,
                do_sample=False,
                eos_token_id=special.eos,
                pad_token_id=special.pad,
            )
            # [batch, tokens, vocab]: the last given token says the first that is compared.
            known = model(input_ids=ids[:, :-1])[:, given - 1 :].numpy()
            for at, row in enumerate(rows):
                # Behind its eos a row is filled with pad until the longest has ended.
                added[row] = until(out[at, given:].tolist(), special.eos)
                logits[row] = known[at]
        return added, logits

    @override
    def measure(self, exported: Model) -> Parity:
        """The loss is that of the tokens behind what is given."""
        task = exported.task
        assert isinstance(task, CausalTask)
        sequences, eos = self._sequences(), self.stored.spec.special_ids.eos
        if self._reference is None:
            self._reference = self._refer(sequences)
        added, known = self._reference
        worst, equal = 0.0, 0
        losses: tuple[list[float], list[float]] = ([], [])
        for rows in tracked(_alike(sequences), "comparing", len(sequences), "texts", len):
            given = sequences[rows[0]][1]
            ids = np.array([sequences[row][0] for row in rows], np.int64)
            # Scores along the same tokens on both sides, so that all of them are comparable,
            # even behind the first token on which the greedy texts differ.
            forced, greedy = _forced(task, ids, given), _greedy(task, ids, given)
            for at, row in enumerate(rows):
                worst = larger(worst, max_difference([known[row]], [forced[:, at]]))
                equal += common_prefix(added[row], until(greedy[at], eos))
                for side, logits in zip(losses, (known[row], forced[:, at]), strict=True):
                    scores = log_softmax(logits)
                    # In nats, of the token that is there.
                    side += (-scores[np.arange(len(scores)), ids[at, given:]]).tolist()
        total = sum(len(tokens) for tokens in added)
        return Parity(
            samples=len(sequences),
            decision="token",
            decisions=total,
            agreement=equal / total,
            metric="loss",
            metric_known=float(np.mean(losses[0])),
            metric_found=float(np.mean(losses[1])),
            max_input_difference=self._prompt_difference(task),
            max_logits_difference=worst,
        )

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        """Answer greedily, since a draw near a border may fall on either side."""
        stored, samples = self.stored, []
        added = min(24, self._positions // 2)
        for prompt in self._prompts(self.config.selftest_samples):
            said = continue_text(
                stored.model,
                stored.spec,
                stored.text,
                prompt,
                SamplingConfig(max_new_tokens=added, temperature=0.0),
            )
            # All of it said, so that no default of the contract changes the answer.
            name = "prompt" if isinstance(prompt, str) else "messages"
            request = {name: prompt, "max_new_tokens": added, "temperature": 0, "stop": []}
            samples.append(SelftestSample(request, "", {"text": said.text}))
        return samples


def _shorten(turns: list[Turn]) -> list[Turn]:
    """The turns before the first answer, each cut to what a self-test stores of a text."""
    first = next(at for at, turn in enumerate(turns) if turn["role"] == "assistant")
    return [{**turn, "content": turn["content"][:TEXT_CHARS]} for turn in turns[:first]]


def _alike(sequences: list[Cut]) -> Iterator[list[int]]:
    """Indices of sequences of which as many tokens are given, and as many there."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (ids, given) in enumerate(sequences):
        groups.setdefault((len(ids), given), []).append(index)
    for rows in groups.values():
        for at in range(0, len(rows), BATCH_ROWS):
            yield rows[at : at + BATCH_ROWS]


def _forced(task: CausalTask, ids: NDArray[np.int64], given: int) -> Floats:
    """Logits [tokens, batch, vocab] of the tokens behind what is given, one by one."""
    decoding = task.decoding(len(ids))
    steps = [decoding.prefill(ids[:, :given])]  # [batch, vocab] each
    # The last token is predicted and never seen.
    for column in range(given, ids.shape[1] - 1):
        steps.append(decoding.step(ids[:, column]))
    return np.stack(steps)


def _greedy(task: CausalTask, ids: NDArray[np.int64], given: int) -> list[list[int]]:
    """The likeliest tokens behind what is given, as many as are there."""
    decoding = task.decoding(len(ids))
    tokens = [decoding.prefill(ids[:, :given]).argmax(axis=-1)]
    for _ in range(given, ids.shape[1] - 1):
        tokens.append(decoding.step(tokens[-1]).argmax(axis=-1))
    rows: list[list[int]] = np.stack(tokens, axis=1).tolist()
    return rows


PLAN = CausalPlan

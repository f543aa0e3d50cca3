"""The bundle of a masked language model: all places of a text at once."""

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from plumbline.batch import IGNORE_INDEX
from plumbline.export.graphs import (
    GraphSpec,
    ids_examples,
    pair_mask,
)
from plumbline.export.parity import Parity, larger
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
from plumbline.kinds.language.export import LanguagePlan
from plumbline.kinds.masked_lm import train as masked_lm
from plumbline.kinds.masked_lm.model import MaskedLm, MaskedLmSpec, takes_space
from plumbline.kinds.masked_lm.runtime import MaskedTask
from plumbline.kinds.masked_lm.settings import MaskedLmExportConfig
from plumbline.tracking.progress import tracked


class MaskedGraph(nn.Module):
    """A masked language model under an explicit mask, the same at any length."""

    def __init__(self, model: MaskedLm) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map ids and mask [batch, seq] to logits [batch, seq, vocab]."""
        logits: Tensor = self.model(input_ids, pair_mask(attention_mask))
        return logits


class MaskedPlan(LanguagePlan[MaskedLmExportConfig, MaskedLm, MaskedLmSpec]):
    """What is special in the bundle of a masked language model."""

    runtime = ("plumbline/kinds/masked_lm/runtime.py", *READERS["text"])

    def __init__(
        self, source: BundleSource[MaskedLm, MaskedLmSpec], config: MaskedLmExportConfig
    ) -> None:
        super().__init__(source, config)
        mask = self._mask_text
        self.readme = Readme(
            title="A model that fills the gaps of a text",
            answer=f"It holds the filled text and, for each `{mask}`, the likeliest tokens with "
            "their probabilities.",
            example={"text": f"this is {mask} text", "candidates": 3},
            graphs={"model": "tokens to the logits of what stands in each place"},
        )

    @property
    def _mask_text(self) -> str:
        return str(self.stored.text.id_to_token(self.stored.spec.mask_id))

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        return {
            "task": "masked_lm",
            "text": {
                "special_ids": spec.special_ids.model_dump(),
                "framing": "stream" if spec.packed else "rows",
                "max_tokens": spec.block_size,
            },
            "mask": {
                "id": spec.mask_id,
                "text": self._mask_text,
                "takes_space": takes_space(self.stored.text),
            },
            "candidates": self.config.candidates,
        }

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        inputs, dynamic = ids_examples(self.stored.spec.vocab_size)
        module = MaskedGraph(self.stored.model).eval()
        return {"model": GraphSpec(module, inputs, dynamic, ["logits"])}

    @override
    @torch.inference_mode()
    def measure(self, exported: Model) -> Parity:
        """What is hidden is what evaluation hides."""
        task, spec, split = exported.task, self.stored.spec, self.config.split
        assert isinstance(task, MaskedTask)
        rows = masked_lm.open_rows(self.cache, split, spec, seed=0, training=False)
        # The seed of evaluation: the same tokens are hidden.
        collate = masked_lm.bind_collate(spec, 0)
        worst, equal = 0.0, list[bool]()
        losses: tuple[list[float], list[float]] = ([], [])
        places = spread(len(rows), self.config.parity_samples)
        for place in tracked(places, "comparing", len(places), "samples"):
            batch = collate([rows.sample(place, 0)])
            arrays = [batch[name].numpy() for name in ("input_ids", "attention_mask")]
            # [seq, vocab] on both sides: one sample at a time, so nothing is padded
            known = self.stored.model(batch["input_ids"], batch["attention_mask"])[0].numpy()
            got = task.logits(arrays)[0]
            worst = larger(worst, max_difference([known], [got]))
            labels = batch["labels"][0].numpy()
            hidden = np.flatnonzero(labels != IGNORE_INDEX)  # [hidden]: their positions
            equal += (known[hidden].argmax(axis=1) == got[hidden].argmax(axis=1)).tolist()
            for side, logits in zip(losses, (known, got), strict=True):
                side += (-log_softmax(logits[hidden])[range(len(hidden)), labels[hidden]]).tolist()
        return Parity(
            samples=len(places),
            decision="token",
            decisions=len(equal),
            agreement=float(np.mean(equal)) if equal else 1.0,
            metric="loss",
            metric_known=float(np.mean(losses[0])),
            metric_found=float(np.mean(losses[1])),
            max_input_difference=self._text_difference(task.text, "text"),
            max_logits_difference=worst,
        )

    @override
    @torch.inference_mode()
    def selftest(self, exported: Model) -> list[SelftestSample]:
        task, samples = exported.task, []
        assert isinstance(task, MaskedTask)
        for text in self._texts("text", self.config.selftest_samples):
            request = {"text": self._with_gap(text)}
            arrays = task.inputs(request)
            logits = self.stored.model(*(torch.from_numpy(array) for array in arrays))[0]
            place = arrays[0][0].tolist().index(self.stored.spec.mask_id)  # its one gap
            best = self.stored.text.decode([int(logits[place].argmax())])
            before, _, behind = request["text"].partition(self._mask_text)
            if task.contract["mask"]["takes_space"]:
                # The token that fills the gap brings the space before it.
                before = before.removesuffix(" ")
            samples.append(SelftestSample(request, "", {"text": before + best + behind}))
        return samples

    def _with_gap(self, text: str) -> str:
        """A text of the dataset, short enough for the model, with its middle word hidden."""
        # Half is left for bos, eos and what a gap makes of the tokens around it.
        limit = self.stored.spec.block_size // 2
        while len(self.stored.text.encode(text, add_special_tokens=False).ids) > limit:
            text = text[: len(text) // 2]
        words = text.split(" ")
        words[len(words) // 2] = self._mask_text
        return " ".join(words)


PLAN = MaskedPlan

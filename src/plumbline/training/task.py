"""The contract between a kind of work and the training loop."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import ConfigError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import SampleSource
from plumbline.metrics.perplexity import perplexity
from plumbline.models.pretrained import Origin, Origins
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import FILE_NAME, load_tokenizer
from plumbline.training.compile_config import CompileConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.weights.checkpoint import Checkpoint, open_checkpoint, tokenizer_folder
from plumbline.weights.settings import NOWHERE

if TYPE_CHECKING:
    from plumbline.training.adapters import Adapter


def no_metrics(model: nn.Module) -> Mapping[str, float]:
    """The validation metrics of a task that has none but its loss."""
    return {}


def no_loss_metrics(loss: float) -> Mapping[str, float | None]:
    """The metrics that follow from the loss of a task where none does."""
    return {}


def perplexity_of(loss: float) -> Mapping[str, float | None]:
    """The perplexity of a loss in nats per token; None where it is too large for a float."""
    return {"perplexity": perplexity(loss, 1)}


def nothing_to_settle(model: nn.Module, batch: Batch) -> None:
    """What a model finds out about itself where there is nothing."""


Embedded = Mapping[str, Tensor]
"""What a micro-batch brings to the loss of its window, by name: floating-point tensors, through
which gradients flow, and integers that say what belongs together."""


@dataclass(frozen=True)
class WindowLoss:
    """A loss over all micro-batches of an optimiser step at once, as contrastive negatives need.

    A micro-batch may be embedded twice, the first time without a graph and the second time under
    the same random numbers, so `embed` must depend on model, batch and torch's generators alone.
    """

    embed: Callable[[nn.Module, Batch], Embedded]
    """Micro-batch -> its part in the loss."""
    loss: Callable[[nn.Module, Sequence[Embedded]], LossSum]
    """All parts of a window, in order -> the sum and the count of the window."""


@dataclass(frozen=True)
class Task:
    """What the loop needs to know of a kind of work; it never asks which one it runs.

    A batch carries `sample_index` [batch], the numbers of its samples, for the record of a step
    that went wrong; every other key is between `collate` and `loss`.
    """

    name: str
    collate: Callable[[Sequence[Sample]], Batch]
    """Samples -> one padded batch."""
    loss: Callable[[nn.Module, Batch], LossSum]
    """The sum over what counts, and the count."""
    validation_metrics: Callable[[nn.Module], Mapping[str, float]] = no_metrics
    """Metrics of the whole validation split beside its loss, higher or lower as they are."""
    metric_names: Collection[str] | None = None
    """Names of `validation_metrics`, so that a setting can be checked before training begins; None:
    they are known once it has run."""
    loss_metrics: Callable[[float], Mapping[str, float | None]] = no_loss_metrics
    """Metrics that follow from the validation loss, such as perplexity; None: it has no value."""
    window: WindowLoss | None = None
    """Where the sums of micro-batches do not add up to the loss of their window: that loss. With
    one micro-batch it equals `loss`, which is then used alone."""
    collate_raw: Callable[[Sequence[Sample]], Batch] | None = None
    """As `collate`, with deferred values that `to_device` finishes; None: the task has none."""
    settle: Callable[[nn.Module, Batch], None] = nothing_to_settle
    """What a model finds out about itself in its first pass, before passes are compiled."""

    def collate_for(self, device: torch.device) -> Callable[[Sequence[Sample]], Batch]:
        """How batches are made for a device: a GPU finishes them, and gets fewer bytes."""
        return self.collate if device.type == "cpu" else self.collate_raw or self.collate

    def known_metrics(self) -> list[str] | None:
        """Names of all metrics of a validation; None where they are known once it has run."""
        named = self.metric_names
        if named is None and self.validation_metrics is not no_metrics:
            return None
        return ["loss", *self.loss_metrics(1.0), *(named or ())]


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a training needs beside its settings, as a task's own file builds it."""

    model: nn.Module
    task: Task
    train: SampleSource
    validation: SampleSource | None
    spec: ModelSpec
    """How to build and feed the model; stored beside the weights."""
    tokenizer: Tokenizer | None
    inputs: Mapping[str, str]
    """Digests of what the training reads, by name."""
    adapters: "Sequence[Adapter]" = ()
    """On parts of the model."""
    validation_task: Task | None = None
    """Where batches are made differently without augmentation; None: as in training."""
    by_length: bool = False
    """Whether batches are of samples of similar length even where no setting asks for it."""
    confirm: Callable[[], None] = lambda: None
    """Waits until what the training reads is known to be as it was written; raises where not."""


@dataclass(frozen=True)
class Sources:
    """What a training reads: the cache of its dataset, and checkpoints that parts start from."""

    cache: Mapping[str, str]
    """File -> digest."""
    checkpoints: Mapping[str, Checkpoint]
    """Part -> its checkpoint."""

    @property
    def origins(self) -> Origins:
        """Where parts have their architecture and weights from."""
        return {
            part: Origin(checkpoint.path, with_weights=True)
            for part, checkpoint in self.checkpoints.items()
        }

    @property
    def digests(self) -> dict[str, str]:
        """What is read, by name; where a checkpoint lies and how it is called shapes nothing."""
        digests = {f"cache/{name}": digest for name, digest in self.cache.items()}
        for part, checkpoint in self.checkpoints.items():
            digests |= {f"{part}/{name}": value for name, value in checkpoint.digests.items()}
        return digests


def _alone_on_cpu() -> Machine:
    return Machine(torch.device("cpu"), "fp32", Processes())


@dataclass(frozen=True)
class JobContext:
    """What the builder of a task has beside the task's own settings."""

    cache: TrainingCache
    seed: int
    start: Path = Path()
    """The folder that training starts from; of no use to a task that starts from nothing."""
    freeze: Sequence[str] = ()
    """Parts of the model that stay as they are."""
    machine: Machine = field(default_factory=_alone_on_cpu)
    """What is computed on."""
    compile: CompileConfig = field(default_factory=CompileConfig)
    """What of it is compiled."""
    keep_features: bool = True
    """Whether frozen encoders are computed once per input, where that stays the same."""
    cache_bytes: int = 0
    """Most memory for decoded inputs that are kept for the next epoch."""
    weights: Path = Path(NOWHERE)
    """The folder with the records of the checkpoints that parts can start from."""
    checks: list[Callable[[], None]] = field(default_factory=list)
    """What `confirm` waits for beside the cache."""

    def confirm(self) -> None:
        """Wait until all that is read is known to be as it was written.

        Raises:
            DamagedInputError: a file is not.
        """
        self.cache.confirm()
        for check in self.checks:
            check()

    def tokenizer(self) -> Tokenizer | None:
        """The dataset's tokenizer; None where it has no text."""
        folder = self.cache.folder
        return load_tokenizer(folder) if (folder / FILE_NAME).is_file() else None

    def open_sources(
        self, sources: Mapping[str, str | None], *, read_ids: Collection[str] = ()
    ) -> Sources:
        """Open the checkpoints that parts start from.

        Args:
            sources: part -> name of an entry of `weights`; None: it starts from random weights.
            read_ids: the parts that read the dataset's token ids.

        Raises:
            ConfigError: a checkpoint is not there, is another one than was recorded, or reads other
                ids than the dataset's tokenizer gives.
        """
        named = {part: name for part, name in sources.items() if name is not None}
        opened = {part: open_checkpoint(self.weights, name) for part, name in named.items()}
        for part in opened.keys() & set(read_ids):
            self._check_ids(named[part], opened[part].tokenizer)
        return Sources(self.cache.digests, opened)

    def new_tokens(self, setting: str, name: str) -> list[int]:
        """Ids of the dataset's tokenizer whose tokens a checkpoint's own does not have.

        Args:
            setting: that asks for them.
            name: of an entry of `weights`, which is open already.

        Raises:
            ConfigError: there are none, or it cannot be told.
        """
        own, folder = self.tokenizer(), tokenizer_folder(self.weights, name)
        if own is None or not (folder / FILE_NAME).is_file():
            raise ConfigError(
                f"{setting}: weights.{name} has no {FILE_NAME} to tell new tokens by; leave it out"
            )
        known = load_tokenizer(folder).get_vocab()
        found = sorted(number for token, number in own.get_vocab().items() if token not in known)
        if not found:
            raise ConfigError(
                f"{setting}: the tokenizer of {self.cache.folder.name} has no token that weights."
                f"{name} does not have; leave it out"
            )
        return found

    def _check_ids(self, name: str, folder: Path) -> None:
        """Refuse a checkpoint that has learned to read other ids than the dataset's."""
        own = self.tokenizer()
        if own is None or not (folder / FILE_NAME).is_file():
            return
        ids = own.get_vocab()  # tokens that were added since are no matter
        for token, number in load_tokenizer(folder).get_vocab().items():
            if ids.get(token) != number:
                raise ConfigError(
                    f"weights.{name}: token {token!r} has id {number} there and "
                    f"{ids.get(token)} in {self.cache.folder}: set tokenize.tokenizer.pretrained "
                    f"of {self.cache.folder.name} to {name}"
                )

    @property
    def has_validation(self) -> bool:
        """Whether the dataset has a validation split."""
        return "val" in self.cache.splits

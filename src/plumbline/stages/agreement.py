"""What the settings of one stage say of another: contradictions that no section sees by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline import paths
from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.loading.input_config import AudioInputConfig, ImageInputConfig, InputConfig
from plumbline.shapes.detect import ShapesConfig
from plumbline.sources.base import Source
from plumbline.stages.detect_shapes import DetectShapesConfig
from plumbline.stages.evaluate_alignment import EvaluateAlignmentConfig
from plumbline.stages.evaluate_model import EvaluateModelConfig
from plumbline.stages.export_stage import ExportStageConfig
from plumbline.stages.prepare import PrepareConfig
from plumbline.stages.tokenize_text import TokenizeTextConfig
from plumbline.stages.validate import ValidateConfig
from plumbline.tokenization.media import CHANNELS
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.training.sections import TrainingConfig, TrainSection
from plumbline.validation.settings import ValidationConfig
from plumbline.weights.named import named_checkpoints
from plumbline.weights.settings import WeightsEntry

Settings = Mapping[tuple[str, str], Config]
"""(stage, key) -> its checked settings."""

_GROUPS = {
    "pretrain_alignment": "align",
    "export_alignment": "align",
    "finetune": "tasks",
    "export_model": "tasks",
}
_MAKERS = {paths.aligned("x").parent: "pretrain_alignment", paths.finetuned("x").parent: "finetune"}
"""Folder -> the stage that makes what lies in it."""


ALIGN = paths.alignment_export("x").parent.name
"""What no task may be called beside alignments."""


@dataclass(frozen=True)
class Dataset:
    """All settings of one dataset."""

    name: str
    source: Source
    validate: ValidationConfig
    shapes: ShapesConfig
    tokenize: TokenizeConfig
    weights: str

    def lacks(self, split: str) -> str | None:
        """Why there will be no such split, with the remedy; None: there will, or it cannot be told.

        Decided as `validate` does it: a test split is drawn only where no row brings a split.
        """
        given, drawn = self.source.given_splits, self.validate.split
        if self.source.rows_bring_splits or split in ("train", *given):
            return None
        share = drawn.val if split == "val" else drawn.test
        key = f"datasets.{self.name}.validate.split.{split}"
        if share and (split == "val" or not given):
            return None
        if given and split == "test":
            return (
                f"the source of datasets.{self.name} gives {', '.join(given)}, and {key} draws "
                "rows only where it gives no split; add one to its files"
            )
        return f"{key} is 0, and the source gives {', '.join(given) or 'no split'}; set it above 0"


def check_agreement(settings: Settings) -> None:
    """Refuse what contradicts between datasets, trainings, evaluations and exports.

    Raises:
        ConfigError: the first contradiction; names both settings and the remedy.
    """
    names = [key for stage, key in settings if stage == "prepare"]
    datasets = {name: _dataset(name, settings) for name in names}
    for dataset in datasets.values():
        _check_objects(dataset.name, settings)
        _check_dataset(dataset)
        _check_tokenizer(dataset, settings)
    for place, training in trainings(settings):
        if training.data not in datasets:
            known = ", ".join(datasets)
            raise ConfigError(
                f"{place}.data = {training.data!r}: no such dataset is selected; "
                f"datasets are {known or 'none'}"
            )
        _check_training(place, training, datasets[training.data])
        _check_checkpoints(place, training, settings, datasets[training.data])
        _check_start(place, training, settings, datasets[training.data])
    if ("finetune", ALIGN) in settings and any(
        stage == "export_alignment" for stage, _ in settings
    ):
        raise ConfigError(
            f"tasks.{ALIGN}: its bundle would hold those of alignments, which lie in "
            f"{paths.alignment_export('x').parent}/; give the task another name"
        )
    for place, split, data in _splits(settings):
        if why := datasets[data].lacks(split):
            raise ConfigError(
                f"{place} = {split!r}: there will be no such split: {why}, or choose another split "
                "here"
            )


def _dataset(name: str, settings: Settings) -> Dataset:
    prepare, validate = settings["prepare", name], settings["validate", name]
    shapes, tokenize = settings["detect_shapes", name], settings["tokenize_text", name]
    assert isinstance(prepare, PrepareConfig)
    assert isinstance(validate, ValidateConfig)
    assert isinstance(shapes, DetectShapesConfig)
    assert isinstance(tokenize, TokenizeTextConfig)
    return Dataset(
        *(name, prepare.prepare, validate.validate_, shapes.detect_shapes, tokenize.tokenize),
        weights=tokenize.weights,
    )


def trainings(settings: Settings) -> Iterator[tuple[str, TrainingConfig]]:
    """Place in params.yaml and settings of everything that is trained."""
    for (stage, key), config in settings.items():
        if isinstance(config, TrainingConfig):
            yield f"{_GROUPS[stage]}.{key}", config


def _splits(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Key, value and dataset of every setting that names a split."""
    for (stage, key), config in settings.items():
        if isinstance(config, EvaluateModelConfig):
            yield f"tasks.{key}.evaluate.split", config.evaluate.split, config.data
        elif isinstance(config, EvaluateAlignmentConfig):
            yield f"align.{key}.evaluate.split", config.evaluate.split, config.data
        elif isinstance(config, ExportStageConfig) and config.export.enabled:
            for name, split in config.export.splits().items():
                yield f"{_GROUPS[stage]}.{key}.export.{name}", split, config.data


def _check_objects(name: str, settings: Settings) -> None:
    """A dataset's path among listings is that of an entry of objects."""
    prepare = settings["prepare", name]
    assert isinstance(prepare, PrepareConfig)
    listings = {paths.objects(key): key for stage, key in settings if stage == "list_objects"}
    path = Path(prepare.path)
    if path.parent == paths.objects("x").parent and path not in listings:
        raise ConfigError(
            f"datasets.{name}.path = {prepare.path!r}: no such entry of objects; there is "
            f"{', '.join(listings.values()) or 'none'}"
        )


def _check_dataset(dataset: Dataset) -> None:
    place, declared = f"datasets.{dataset.name}", dataset.shapes
    views = {name for columns in dataset.validate.views.values() for name in columns}
    for column, setting in (("label", declared.classes), ("features", declared.features)):
        if setting and column not in views:
            key = "classes" if column == "label" else column
            raise ConfigError(
                f"{place}.detect_shapes.{key} is set, but no view of {place}.validate.views has "
                f"the column {column}"
            )
    for part in sorted(set(declared.classes) & set(dataset.validate.labels)):
        if set(declared.classes[part]) != set(dataset.validate.labels[part]):
            raise ConfigError(
                f"{place}.detect_shapes.classes and {place}.validate.labels name other labels for "
                f"part {part!r}: make them the same"
            )
    channels = declared.features[1] if declared.features else None
    if channels and dataset.validate.channels not in (None, channels):
        raise ConfigError(
            f"{place}.detect_shapes.features says {channels} channels, {place}.validate.channels "
            f"{dataset.validate.channels}: make them the same"
        )


def _check_training(place: str, training: TrainingConfig, dataset: Dataset) -> None:
    train = training.train
    if train.trainer.validates and (why := dataset.lacks("val")):
        every = "epochs" if train.trainer.validate_every_epochs else "steps"
        raise ConfigError(
            f"{place}.train.trainer.validate_every_{every}: there will be no validation split: "
            f"{why}, or switch validation off (0 epochs, null steps)"
        )
    if (inputs := train.task.reads()) is not None:
        _check_inputs(f"{place}.train.task.inputs", inputs, dataset)
    _check_classes(f"{place}.train", train, dataset)


def _check_tokenizer(dataset: Dataset, settings: Settings) -> None:
    """The checkpoint that a tokenizer is taken from, where it is."""
    place, name = f"datasets.{dataset.name}", dataset.tokenize.tokenizer.pretrained
    if name is not None:
        where = f"{place}.tokenize.tokenizer.pretrained"
        folder = paths.tokenizers(_set_of(where, name, settings))
        _check_dependency(place, dataset.weights, where, name, folder)


def _check_checkpoints(
    place: str, training: TrainingConfig, settings: Settings, dataset: Dataset
) -> None:
    """The checkpoints that parts of a model start from, and the ids that they read."""
    for named in named_checkpoints(training.train.model):
        name, where = named.name, f"{place}.train.model.{named.key}"
        folder = paths.weights(_set_of(where, name, settings))
        _check_dependency(place, training.weights, where, name, folder)
        # Whether one of another name is the same is seen when the training opens both.
        if named.reads_ids and dataset.tokenize.tokenizer.pretrained is None:
            raise ConfigError(
                f"{where} = {name!r}, but datasets.{dataset.name}.tokenize.tokenizer.pretrained is "
                "null: ids would mean other words; set it to the checkpoint whose tokenizer this "
                "part reads"
            )


def _set_of(where: str, name: str, settings: Settings) -> str:
    """The set of a checkpoint that a setting names."""
    entry = settings.get(("resolve_weights", name))
    if entry is None:
        known = [key for stage, key in settings if stage == "resolve_weights"]
        raise ConfigError(
            f"{where} = {name!r}: no such entry of weights; there is {', '.join(known) or 'none'}"
        )
    assert isinstance(entry, WeightsEntry)
    return entry.checkpoint.set


def _check_dependency(place: str, depends: str, where: str, name: str, folder: Path) -> None:
    """DVC reruns what depends on a checkpoint only if it is told so."""
    if Path(depends) != folder:
        raise ConfigError(
            f"{where} = {name!r}, but {place}.weights = {depends!r}: set it to "
            f"{folder.as_posix()}, so that a change of the checkpoint is seen"
        )


def _check_inputs(place: str, inputs: InputConfig, dataset: Dataset) -> None:
    """What the inputs expect beside what `tokenize` caches."""
    there = dataset.tokenize
    if isinstance(inputs, AudioInputConfig) and inputs.sample_rate != there.sample_rate:
        raise ConfigError(
            f"{place}.sample_rate = {inputs.sample_rate}, but datasets.{dataset.name}.tokenize."
            f"sample_rate = {there.sample_rate}: make them the same"
        )
    if isinstance(inputs, ImageInputConfig):
        _check_images(place, inputs, dataset)


def _check_images(place: str, inputs: ImageInputConfig, dataset: Dataset) -> None:
    """What inputs at `place` are normalised and resized by, and the cached images."""
    there = dataset.tokenize
    if inputs.resize is not None and there.image_size and there.image_resize is None:
        raise ConfigError(
            f"{place}.resize is of images as they are, but datasets.{dataset.name}.tokenize."
            f"image_size = {there.image_size} has stretched them: set image_resize beside it to "
            "the same, or image_size to null where all images have one size"
        )
    mode, channels = there.image_mode, inputs.normalize.channels
    if channels != CHANNELS[mode]:
        raise ConfigError(
            f"{place}.normalize has statistics of {channels} channels, but datasets."
            f"{dataset.name}.tokenize.image_mode = {mode!r} gives {CHANNELS[mode]}: make them "
            "agree; for gray, preset null with one mean and one std"
        )


def _check_classes(place: str, train: TrainSection, dataset: Dataset) -> None:
    """Class counts and weights beside the classes that the dataset declares, where it does."""
    for key, (part, count) in train.task.class_counts(train.model).items():
        declared = dataset.shapes.classes.get(part)
        if declared is not None and len(declared) != count:
            raise ConfigError(
                f"{place}.{key} is for {count} classes, but datasets.{dataset.name}.detect_shapes."
                f"classes names {len(declared)} for part {part!r}"
            )


def _check_start(
    place: str, training: TrainingConfig, settings: Settings, dataset: Dataset
) -> None:
    """A start that nothing makes is missing only after all data stages; so is an encoder in it."""
    start, train = training.start_folder, training.train
    stage = _MAKERS.get(start.parent)
    if stage is not None and (stage, start.name) not in settings and not start.exists():
        made = [f"{start.parent}/{key}" for name, key in settings if name == stage]
        raise ConfigError(
            f"{place}.start = {start.as_posix()!r}: nothing makes it; there will be "
            f"{', '.join(made) or 'nothing in ' + start.parent.as_posix()}"
        )
    wanted = train.task.start_modality(train.model)
    if wanted is not None and start.parent == paths.cache("x").parent:
        raise ConfigError(
            f"{place}.start = {start.as_posix()!r} holds no model, but the task takes its encoder "
            "from there: start from an alignment, or set model.encoder where the task has one"
        )
    aligned = settings.get(("pretrain_alignment", start.name))
    if wanted is None or stage != "pretrain_alignment" or aligned is None:
        return
    assert isinstance(aligned, TrainingConfig)
    inputs = aligned.train.task.reads()
    assert inputs is not None, "an alignment says how its media reach their encoder"
    if inputs.modality != wanted:
        raise ConfigError(
            f"{place}.start = {start.as_posix()!r}: its encoder takes {inputs.modality}, and this "
            f"task needs one for {wanted}"
        )
    if isinstance(inputs, ImageInputConfig):
        cached = settings.get(("tokenize_text", aligned.data))
        if isinstance(cached, TokenizeTextConfig) and inputs.resize is None:
            inputs = inputs.model_copy(update={"resize": cached.tokenize.image_resize})
        _check_images(f"{place}.start: align.{start.name}.train.task.inputs", inputs, dataset)

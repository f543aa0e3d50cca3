"""The contract of a section `task`. No torch here: a wrong setting is told before it loads."""

from plumbline.config import Config
from plumbline.loading.input_config import ImageInputConfig, InputConfig
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig


class TaskConfig(Config):
    """Base of what a kind of work optimises: section `task` of a training."""

    @property
    def has_lengths(self) -> bool:
        """Whether samples differ in length, so that batches can be cut and sorted by it."""
        return True

    def start_modality(self, model: Config) -> str | None:
        """The modality of the encoder that training takes from its start; None: it takes none."""
        return None

    def reads(self) -> InputConfig | None:
        """How media or texts reach the encoder, where this section says it."""
        return None

    def class_counts(self, model: Config) -> dict[str, tuple[str, int]]:
        """What is said of numbers of classes: key in the section `train` -> (part, classes)."""
        return {}

    def check_model(self, model: Config) -> None:
        """Refuse a section `model` that this work cannot be done with.

        What a checkpoint decides is not known here, but when it is loaded.

        Raises:
            ValueError: names both settings.
        """

    def check_lone_sample(self) -> None:
        """Refuse an optimiser step of one sample, where that is nothing to learn from.

        Raises:
            ValueError: names the settings that make it.
        """


def check_encoder(inputs: InputConfig, encoder: EncoderConfig, name: str) -> None:
    """Refuse inputs that an encoder cannot take; what a plugin's takes, it knows alone.

    Raises:
        ValueError: names both settings.
    """
    if encoder.takes is not None and inputs.modality not in encoder.takes:
        raise ValueError(
            f"task.inputs.modality {inputs.modality!r}, but model.{name} takes "
            f"{' or '.join(encoder.takes) or 'raw texts, which only alignments give it'}"
        )
    if isinstance(inputs, ImageInputConfig) and isinstance(encoder, ImageEncoderConfig):
        given, taken = inputs.normalize.channels, encoder.channels
        if given != taken:
            raise ValueError(
                f"task.inputs.normalize is for images of {given} channels, but model.{name}."
                f"channels is {taken}: make them the same"
            )
    longest, room = inputs.longest(), encoder.longest()
    if longest is not None and room is not None and longest > room:
        raise ValueError(
            f"task.inputs.{encoder.length_key}: up to {longest} with what frames them, more than "
            f"model.{name}.{encoder.length_key} {room}"
        )

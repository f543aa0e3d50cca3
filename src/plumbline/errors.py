"""The errors that a user sees: each is one line that names the thing at fault and the remedy."""


class PlumblineError(Exception):
    """Base of every error raised on purpose; its text is shown without a traceback."""

    names_cause = False
    """Whether its text names what led to it, so that a full disk is not looked for behind it."""


class ConfigError(PlumblineError):
    """A setting is unknown, of the wrong type, out of range or contradicts another one."""


class DataError(PlumblineError):
    """Input data is missing, unreadable or cannot be trained on."""


class OutputError(PlumblineError):
    """An output cannot be written: its place is held, read-only, or the disk is full."""


class CheckpointError(PlumblineError):
    """A checkpoint or cache is damaged, or belongs to other parameters."""


class DamagedInputError(CheckpointError):
    """What a training reads turned out to be damaged when it had begun."""


class TrainingError(PlumblineError):
    """Training cannot go on: the loss is not finite, or a frozen part has changed."""


class ExportError(PlumblineError):
    """A model cannot be exported, or the exported model does not agree with its checkpoint."""

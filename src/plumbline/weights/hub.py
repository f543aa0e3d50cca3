"""Checkpoints on the hub, fetched into its own cache on this machine."""

from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.weights.files import PASSED_OVER, READ


def fetch(hub: str, revision: str) -> Path:
    """The folder of a checkpoint, fetched where it is not there.

    Raises:
        ConfigError: it cannot be had: no network, no such id or commit, or no right to it.
    """
    # Only those who name a hub id wait for its import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                hub,
                revision=revision,
                allow_patterns=list(READ),
                ignore_patterns=list(PASSED_OVER),
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{hub} at {revision[:12]}: not on this machine and not to be had from the hub "
            f"({reason}); fetch it where there is a network, or set path to a folder with it"
        ) from None

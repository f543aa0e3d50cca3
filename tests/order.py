"""The order in which an epoch visits the samples."""

from plumbline.loading.loader import Loader


def epoch_order(loader: Loader, epoch: int) -> list[int]:
    """Sample indices [samples]; those that `drop_last` leaves out are not among them."""
    return [int(index) for batch in loader.plan(epoch) for index in batch]

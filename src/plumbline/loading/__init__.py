"""From a training cache to batches: readers, transforms, keyed randomness."""

"""What classification and regression share: an encoder with heads."""

"""Figures of predictions against references, as pure functions."""

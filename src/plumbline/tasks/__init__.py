"""Kinds of work: what a sample, a batch and a loss are."""

"""Checkpoints that trainings and tokenizers start from: where they lie and which files they are."""

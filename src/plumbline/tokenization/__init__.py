"""Tokenizers and the training cache."""

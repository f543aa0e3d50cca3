"""Encoders, language models and heads, and weights on disk."""

"""A declarative, reproducible pipeline for multimodal models."""

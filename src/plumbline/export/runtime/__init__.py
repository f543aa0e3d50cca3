"""What a bundle runs on: no PyTorch, nothing of the pipeline."""

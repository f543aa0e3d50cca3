"""Looking into a model or a training before it runs for long."""

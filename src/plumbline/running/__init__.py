"""The pipeline run as one command: checked before it starts, followed while it runs."""

"""What language models share."""

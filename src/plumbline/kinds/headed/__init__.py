"""TODO headed."""

"""TODO alignment."""

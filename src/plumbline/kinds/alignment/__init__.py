"""Two encoders that meet in one space."""

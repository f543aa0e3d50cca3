"""Numbers in the units of the data."""

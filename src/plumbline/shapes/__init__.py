"""What a cleaned dataset looks like: sizes, lengths, classes."""

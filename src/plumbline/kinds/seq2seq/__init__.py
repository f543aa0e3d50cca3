"""TODO seq2seq."""

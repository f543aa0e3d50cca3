"""A project of one's own: its files come from the package, its core stays there."""

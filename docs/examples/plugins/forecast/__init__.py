"""A kind of task: forecast every step of a sequence from those before it."""

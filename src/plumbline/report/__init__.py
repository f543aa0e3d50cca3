"""The self-contained page about everything that is selected."""

"""Texts that go on from a prompt."""

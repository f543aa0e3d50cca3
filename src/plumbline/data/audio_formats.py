"""Which audio is read; what validation passes is what decoding takes."""

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "AIFF", "MP3")
"""Containers that are read, told by content."""

"""One class for each part of the dataset."""

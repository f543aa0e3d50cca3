"""Figures and predictions of a trained model, by kind."""

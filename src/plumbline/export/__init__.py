"""From a trained model to a bundle that runs by itself."""

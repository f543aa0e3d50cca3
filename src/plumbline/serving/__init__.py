"""A bundle in the servers of others: MLflow and TorchServe."""

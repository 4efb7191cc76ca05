"""The toy world, the models trained on it, and their metrics."""

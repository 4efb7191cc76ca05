"""The toy world, the models trained on it, and what they are measured by."""

"""Other ways than PyTorch to run the networks of a model."""

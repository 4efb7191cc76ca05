"""Training: the data, the losses and the trainer behind ``dynamicrafter train``."""

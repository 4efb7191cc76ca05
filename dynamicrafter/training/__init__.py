"""Training: the toy world, the losses and the trainer behind ``dynamicrafter train``."""

"""A world of cartoon characters that move, the model trained on it, and its metrics."""

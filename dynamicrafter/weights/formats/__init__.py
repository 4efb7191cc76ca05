"""File formats of weights, whatever model they hold."""

"""DynamiCrafter: a still picture and a sentence become a short clip."""

__version__ = "0.1.0"
"""Equal to the version in pyproject.toml; a test compares them."""

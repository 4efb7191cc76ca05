"""Longer and shorter clips, keyframes, and frames that stay true to their image."""

"""Weights files: formats, layouts, accounting, the catalogue, downloads, adapters, conversion."""

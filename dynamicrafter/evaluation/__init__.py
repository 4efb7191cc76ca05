"""Measuring what a model does: any checkpoint, any pictures and prompts, ready clips, and the toy world."""

"""Evaluates models and clips: any checkpoint with any images and prompts, or existing clips."""

"""What a clip follows besides its images and prompt: hints for a ControlNet."""

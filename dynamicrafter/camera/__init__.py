"""Guide clips: the scene of an image with a depth map, seen along a camera path."""

"""AnimateAnyone: a reference image and a clip of poses become a clip of that character."""

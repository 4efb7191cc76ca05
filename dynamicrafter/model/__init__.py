"""The networks, what each released checkpoint is, and what the networks are conditioned on."""

"""What maintainers run by hand to write the files that are made, not typed; no part of what is shipped."""

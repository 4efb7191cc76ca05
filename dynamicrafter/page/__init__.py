"""The page: clips made in a browser, and the server behind it."""

"""A page that runs every depth in a browser."""

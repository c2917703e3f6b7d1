"""A network → a file, and what runs it: a folder for each target."""

"""ExecuTorch: a program with a method for each depth."""

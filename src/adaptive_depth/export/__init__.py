"""Writing a network to files that other runtimes read: every depth in one artifact, each weight once."""

"""A network and data → statistics, quality, costs."""

"""The method's rationale measured on a network (paper, section 3.3); `values.py` and `advice.py` need no torch."""

"""Depth by depth under a deadline: the rule, its clock, its log. Without torch."""

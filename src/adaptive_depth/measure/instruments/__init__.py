"""Instruments of `profile`: each takes runs of sub-networks by skip and returns figures by skip."""

"""Requests over HTTP, each answered at a depth that the queue allows. Does not import torch itself."""

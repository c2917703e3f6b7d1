"""Requests over HTTP, each answered at a depth that the queue allows. Without torch of its own."""

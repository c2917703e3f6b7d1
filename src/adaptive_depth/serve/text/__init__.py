"""Language models over HTTP, with OpenAI's API: a depth for each request. Torch only in `writing.py`."""

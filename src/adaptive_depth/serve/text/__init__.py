"""Language models over HTTP, as OpenAI has it: a depth for each request. Torch only in `writing.py`."""

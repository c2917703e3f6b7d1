"""One folder that holds a network, and what the Hugging Face Hub wants of it."""

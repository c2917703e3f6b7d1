"""A folder that contains a network, and the Hugging Face Hub's conventions for it."""

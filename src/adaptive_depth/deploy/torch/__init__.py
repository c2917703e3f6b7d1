"""torch itself: the network as it is, and programs of torch.export."""

"""Text from sub-networks: a depth for each request, and drafts by the network's own shallow depths."""

from .draft import Draft
from .drafting import Tried, choose_draft
from .generating import catch_up, generate

__all__ = ["Draft", "Tried", "catch_up", "choose_draft", "generate"]

"""The library for an agent's author: handlers for messages, and calls to send them."""

from clawlink.client.link.link import Link

__all__ = ["Link"]

"""What an agent's author uses: handlers for what comes, and what the agent has to say."""

from clawlink.client.link.link import Link

__all__ = ["Link"]

"""Attempts to deliver a message that ended without an acknowledgement."""

from __future__ import annotations

from enum import Enum


class AttemptEnd(str, Enum):
    """How an attempt ended."""

    LAPSED = "lapsed"  # the reader was silent until its lease was over
    GIVEN_BACK = "given_back"  # the reader gave the message back
    CONNECTION_ENDED = "connection_ended"  # the reader's connection ended after it had read the message
    TAKEN_BACK = "taken_back"  # the agent was silent, or left, after it had acknowledged the task
    UNDELIVERABLE = "undeliverable"  # the reader's protocol has no way to carry the message

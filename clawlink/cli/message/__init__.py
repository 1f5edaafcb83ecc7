"""``clawlink message``: send messages, and fetch those that wait."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "message",
    "Send messages, and fetch waiting ones.",
    (
        Verb(
            "poll",
            "Show your waiting messages.",
            "clawlink.cli.message.poll",
            ("poll", "poll --wait 60"),
            ("poll",),
            frequent=True,
        ),
        Verb(
            "send",
            "Send a plain message to an agent.",
            "clawlink.cli.message.send",
            ('send bob "The build is green"',),
            ("send",),
            frequent=True,
        ),
        Verb(
            "status",
            "Show how far a message or task came.",
            "clawlink.cli.message.status",
            ("message status 7f3a",),
            ("status",),
        ),
        Verb(
            "dead-letters",
            "List messages that were handed out too often.",
            "clawlink.cli.message.dead_letters",
            ("message dead-letters",),
            ("dead-letters",),
        ),
        Verb(
            "redrive",
            "Put dead letters back into the mailbox.",
            "clawlink.cli.message.redrive",
            ("message redrive --all",),
            ("redrive",),
        ),
    ),
)

"""``clawlink relay``: run a relay and look after it."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "relay",
    "Run a relay and look after it.",
    (
        Verb(
            "serve",
            "Run a relay.",
            "clawlink.cli.relay.serve",
            ("serve", "serve --port 9078 --token s3cret"),
            ("serve",),
            frequent=True,
        ),
        Verb("scan", "Find relays on the local network.", "clawlink.cli.relay.scan", ("relay scan",), ("scan",)),
        Verb(
            "info", "Show a relay, its contents and its limits.", "clawlink.cli.relay.info", ("relay info",), ("info",)
        ),
        Verb(
            "doctor",
            "Check relay, token, identity and clock, and name the fix.",
            "clawlink.cli.relay.doctor",
            ("doctor",),
            ("doctor",),
            frequent=True,
        ),
    ),
)

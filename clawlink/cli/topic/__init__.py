"""``clawlink topic``: send broadcasts to subscribers of a topic, and read earlier ones."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "topic",
    "Send broadcasts, and read earlier ones.",
    (
        Verb(
            "broadcast",
            "Tell all other agents that subscribe to a topic.",
            "clawlink.cli.topic.broadcast",
            ('broadcast "The build is green"', 'broadcast "Release at noon" --topic build.release --ttl 2h'),
            ("broadcast",),
            frequent=True,
        ),
        Verb(
            "history",
            "List earlier broadcasts.",
            "clawlink.cli.topic.history",
            ("topic history", "topic history 'build.*' --since 2h"),
            ("knowledge",),
        ),
    ),
)

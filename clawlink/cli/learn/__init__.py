"""Verbs that teach: they stand alone, without a noun."""

from clawlink.cli.verb import OF_A_RELAY, Noun, Verb

NOUN = Noun(
    "",
    "Learn.",
    (
        Verb(
            "help",
            "Show how to begin, or the help of a command.",
            "clawlink.cli.learn.help",
            ("help", "help file put"),
            unused=OF_A_RELAY,
        ),
        Verb(
            "demo",
            "Show a task from end to end, live; needs no set-up.",
            "clawlink.cli.learn.demo",
            ("demo --fast",),
            unused=OF_A_RELAY,
        ),
        Verb(
            "skill",
            "Print or install the instructions for agents.",
            "clawlink.cli.learn.skill",
            ("skill", "skill --install claude"),
            unused=OF_A_RELAY,
        ),
        Verb(
            "completion",
            "Print a completion script for a shell.",
            "clawlink.cli.learn.completion",
            ("completion bash",),
            unused=("--timeout",),
        ),
    ),
)

"""Verbs for special needs: they stand alone, without a noun, and last in every list."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "",
    "For special needs.",
    (
        Verb(
            "bench",
            "Measure a relay, beside a bare aiohttp server.",
            "clawlink.cli.plumbing.bench",
            ("bench --only delegate --seconds 0.5 --rounds 1",),
            unused=("--as", "--ca", "--timeout"),
        ),
    ),
)

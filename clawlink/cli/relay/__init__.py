"""``clawlink relay``: run a relay and look after it."""

from clawlink.cli.verb import OF_A_RELAY, Noun, Verb

NOUN = Noun(
    "relay",
    "Run a relay and look after it.",
    (
        Verb(
            "serve",
            "Run a relay.",
            "clawlink.cli.relay.serve",
            ("serve", "serve --port 9078 --token s3cret", "serve --data mesh"),
            ("serve",),
            frequent=True,
            unused=("--relay", "--as", "--ca", "--timeout"),
        ),
        Verb("scan", "Find relays on the local network.", "clawlink.cli.relay.scan", ("relay scan",), ("scan",)),
        Verb(
            "info",
            "Show a relay, its contents and its limits.",
            "clawlink.cli.relay.info",
            ("relay info",),
            ("info",),
            unused=("--relay", "--token", "--as", "--ca"),
        ),
        Verb(
            "open",
            "Open the page of a relay in the browser, as its operator.",
            "clawlink.cli.relay.open",
            ("relay open --print", "relay open --print --read-only --seconds 3600"),
            ("open",),
        ),
        Verb(
            "top",
            "Watch a relay in the terminal, as its operator.",
            "clawlink.cli.relay.top",
            ("relay top --once",),
            ("top",),
        ),
        Verb(
            "audit",
            "List the acts of the operator of a relay, the newest first.",
            "clawlink.cli.relay.audit",
            ("relay audit", "relay audit --limit 5"),
            ("audit",),
        ),
        Verb(
            "stop-all",
            "Stop all new work and all claims, as the operator of a relay.",
            "clawlink.cli.relay.stop_all",
            ("relay stop-all",),
            ("stop-all",),
        ),
        Verb(
            "resume-all",
            "Let work go on after stop-all, as the operator of a relay.",
            "clawlink.cli.relay.resume_all",
            ("relay resume-all",),
            ("resume-all",),
        ),
        Verb(
            "backup",
            "Copy the folder of a relay with --data, also while it runs.",
            "clawlink.cli.relay.backup",
            ("relay backup mesh backups/today",),
            ("backup",),
            unused=OF_A_RELAY,
        ),
        Verb(
            "restore",
            "Make the folder for a relay with --data from a backup.",
            "clawlink.cli.relay.restore",
            ("relay restore backups/monday mesh-again",),
            ("restore",),
            unused=OF_A_RELAY,
        ),
        Verb(
            "doctor",
            "Check relay, token, identity and clock, and name the fix.",
            "clawlink.cli.relay.doctor",
            ("doctor", "doctor --data mesh"),
            ("doctor",),
            frequent=True,
        ),
    ),
)

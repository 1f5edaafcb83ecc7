"""``clawlink agent``: take part, and see the other agents."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "agent",
    "Take part, and see the other agents.",
    (
        Verb(
            "register",
            "Register an agent here, or resume it.",
            "clawlink.cli.agent.register",
            ("register alice", "register alice --caps python,review"),
            ("register",),
            frequent=True,
        ),
        Verb(
            "list",
            "List agents.",
            "clawlink.cli.agent.list",
            ("discover", "discover --capability review"),
            ("discover",),
            frequent=True,
        ),
        Verb(
            "whoami",
            "List the identities kept here, and mark the one in use.",
            "clawlink.cli.agent.whoami",
            ("whoami",),
            ("whoami",),
            frequent=True,
        ),
        Verb(
            "connect",
            "Connect a coding agent: put its hooks and tools into its settings.",
            "clawlink.cli.agent.connect",
            ("connect claude --dry-run", "connect claude --yes", "connect claude --undo --yes"),
            ("connect",),
            frequent=True,
            unused=("--token", "--as", "--ca", "--timeout"),
        ),
        Verb(
            "hook",
            "Tell a session of a coding agent what came for it, as its hook.",
            "clawlink.cli.agent.hook",
            ("hook SessionStart --host claude",),
            ("hook",),
            frequent=True,
            unused=("--as", "--timeout"),
        ),
        Verb(
            "wake",
            "Wake idle agents of this account when mail comes for them.",
            "clawlink.cli.agent.wake",
            ("wake", "wake --status"),
            ("wake",),
            frequent=True,
            unused=("--relay", "--token", "--as", "--ca"),
        ),
        Verb(
            "heartbeat",
            "Show a sign of life.",
            "clawlink.cli.agent.heartbeat",
            ("agent heartbeat",),
            ("heartbeat",),
        ),
        Verb(
            "leave",
            "Leave the relay and forget the identity.",
            "clawlink.cli.agent.leave",
            ("agent leave --as alice",),
            ("leave",),
            deletes=True,
        ),
        Verb(
            "kick",
            "Remove an agent and free its name, as the operator of the relay.",
            "clawlink.cli.agent.kick",
            ("agent kick bob",),
            ("kick",),
            deletes=True,
        ),
    ),
)

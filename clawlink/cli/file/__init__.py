"""``clawlink file``: share files."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "file",
    "Share files.",
    (
        Verb(
            "put",
            "Write a shared file.",
            "clawlink.cli.file.put",
            ("file put plan.md", "file put docs/plan.md plan.md", "file put docs/plan.md plan.md --if-version 1"),
            ("file-put",),
        ),
        Verb(
            "get",
            "Read a shared file.",
            "clawlink.cli.file.get",
            ("file get docs/plan.md", "file get docs/plan.md --output copy.md"),
            ("file-get",),
        ),
        Verb("list", "List shared files.", "clawlink.cli.file.list", ("file list",), ("file-list",)),
        Verb(
            "edit",
            "Change a shared file in your editor, and merge with others' changes.",
            "clawlink.cli.file.edit",
            ("file edit docs/plan.md",),
            ("file-edit",),
        ),
        Verb(
            "diff",
            "Show the changes between two versions of a shared file.",
            "clawlink.cli.file.diff",
            ("file diff docs/plan.md", "file diff docs/plan.md 1 2"),
            ("file-diff",),
        ),
        Verb(
            "history",
            "List the versions of a shared file.",
            "clawlink.cli.file.history",
            ("file history docs/plan.md",),
            ("file-history",),
        ),
        Verb(
            "watch",
            "Wait for the next version of a shared file.",
            "clawlink.cli.file.watch",
            ("file watch docs/plan.md --since 1 --timeout 10m",),
            ("file-watch",),
        ),
        Verb(
            "lock",
            "Ask the other agents not to write a file for a while.",
            "clawlink.cli.file.lock",
            ('file lock docs/plan.md --for 30m --note "I am rewriting it"',),
            ("file-lock",),
        ),
        Verb(
            "unlock",
            "Let the other agents write a file again.",
            "clawlink.cli.file.unlock",
            ("file unlock docs/plan.md",),
            ("file-unlock",),
        ),
        Verb(
            "rm",
            "Delete a shared file.",
            "clawlink.cli.file.rm",
            ("file rm docs/plan.md",),
            ("file-rm",),
            deletes=True,
        ),
    ),
)

"""``clawlink task``: delegate work, do it, and see where it stands."""

from clawlink.cli.verb import Noun, Verb

NOUN = Noun(
    "task",
    "Delegate work, do it, and follow its progress.",
    (
        Verb(
            "delegate",
            "Delegate a task to agents, or to the first that can do it.",
            "clawlink.cli.task.delegate",
            ('delegate bob "Review the parser"', 'delegate --capability review "Review the parser" --deadline 2h'),
            ("delegate",),
            frequent=True,
        ),
        Verb(
            "wait",
            "Wait for tasks to be finished.",
            "clawlink.cli.task.wait",
            ("wait 7f3a --timeout 10m",),
            ("wait",),
            frequent=True,
        ),
        Verb(
            "list",
            "List your tasks.",
            "clawlink.cli.task.list",
            ("task list", "task list --role assignee --status open"),
            ("tasks",),
        ),
        Verb(
            "show",
            "Show one task and its history.",
            "clawlink.cli.task.show",
            ("task show 7f3a",),
        ),
        Verb(
            "respond",
            "Report on a task, or answer it.",
            "clawlink.cli.task.respond",
            ('respond 7f3a --progress 40 --note "half of the files are read"', 'respond 7f3a "Two faults: ..."'),
            ("respond",),
            frequent=True,
        ),
        Verb(
            "answer",
            "Answer a question of a task's assignee.",
            "clawlink.cli.task.answer",
            ('task answer 7f3a "The branch main"',),
            ("answer",),
        ),
        Verb(
            "cancel",
            "Take a task back for good.",
            "clawlink.cli.task.cancel",
            ('task cancel 7f3a --note "no longer needed"',),
            ("cancel",),
            deletes=True,
        ),
        Verb(
            "work",
            "Let a command do the incoming tasks.",
            "clawlink.cli.task.work",
            (
                'work --name shout --caps shout --exec "python3 -c '
                '\'import json; print(json.loads(input())[\\"task\\"].upper())\'"',
            ),
            ("work",),
            frequent=True,
        ),
    ),
    default="show",
)

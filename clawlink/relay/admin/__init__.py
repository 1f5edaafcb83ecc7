"""The operator's view: all agents, tasks and mailboxes, and the acts of the operator."""

"""The verbs of Agent Link."""

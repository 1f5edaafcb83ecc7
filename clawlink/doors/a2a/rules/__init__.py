"""The mapping between A2A and ClawLink, both ways. A ClawLink task is the A2A task: one id, no record beside it."""

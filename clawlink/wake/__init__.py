"""The program that wakes idle agents: the rules, and an adapter for each client that can be woken."""

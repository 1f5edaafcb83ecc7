"""The wire of A2A: requests, errors, the file of clients, and the addresses of webhooks."""

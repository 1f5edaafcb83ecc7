"""The protocol as it travels: JSON-RPC, its two eras, the tools, and how texts of others are quoted."""

"""The wire of Agent Link, shared by the relay's door and by our own client: frames, signatures and files."""

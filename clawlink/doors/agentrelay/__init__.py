"""AgentRelay across machines: the verbs of its line, over HTTP, on events that the relay keeps."""

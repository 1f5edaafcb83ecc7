"""Real coding agents of npm, with a stand-in for their model. Each test is left out where its program is missing."""

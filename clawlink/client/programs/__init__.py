"""The settings of coding agents: where they are, and how ClawLink's entries get in and out of them."""

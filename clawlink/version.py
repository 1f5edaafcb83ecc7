"""The one place that names the version."""

VERSION = "1.1.0"

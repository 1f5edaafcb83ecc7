"""The wire of portals: routes, bodies and frames."""

"""mesh: one agent, identical on every device, with no controller and no leader."""

__version__ = "0.1.0"

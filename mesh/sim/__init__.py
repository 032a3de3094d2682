"""The simulator: stands on core, loaded only when asked for."""

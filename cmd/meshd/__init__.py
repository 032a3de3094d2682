"""The agent: `meshd`."""

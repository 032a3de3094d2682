"""How people talk to a node: the app behind the unix socket."""

"""How workloads run: native processes, containers, Kubernetes. Nobody but the agent imports this room."""

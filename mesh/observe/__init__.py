"""What a node sees of itself: metrics, logs."""

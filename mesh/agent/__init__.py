"""What a node does: the composition root and one task per feature."""

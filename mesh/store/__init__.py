"""What a node remembers: the only room that imports lmdb."""

"""How bytes travel: the only room that imports libp2p."""

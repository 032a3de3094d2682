"""What peers say to each other: codec, frames, messages, protocol ids."""

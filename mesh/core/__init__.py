"""What a node decides: pure functions and machines, without IO, clock or dice of their own."""

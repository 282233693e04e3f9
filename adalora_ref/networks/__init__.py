"""Small networks with hand-written backward passes."""

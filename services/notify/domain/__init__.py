"""State, rules and events of notices. Pure: no I/O."""

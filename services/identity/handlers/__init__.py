"""The use cases of identity: async functions of (ports, caller, ...), each stating who may call it."""

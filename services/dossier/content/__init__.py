"""What a file is, by its content: recognised first, then its structure checked in a process with limits."""

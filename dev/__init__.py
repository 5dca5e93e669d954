"""Tools for people who work on Một Cửa: the local stack, code generation, checks. Nothing here ships."""

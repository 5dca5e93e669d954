"""Protobuf <-> handlers."""

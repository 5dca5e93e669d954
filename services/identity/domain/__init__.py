"""The rules of identity, pure: who people and agencies are, and what their sessions and delegations allow."""

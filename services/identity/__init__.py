"""Identity: accounts, officials and roles, agencies, sessions, delegations, and the keys of access tokens."""

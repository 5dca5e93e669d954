"""Tells people what happened: in the app, by e-mail and, where a gateway is configured, by SMS and Zalo."""

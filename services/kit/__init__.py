"""What every service shares, and no words of the domain."""

"""Every system of the zoo on one budget."""

"""What an optimization may do, from its creation to its end."""

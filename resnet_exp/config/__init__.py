"""What the user typed, composed, typed and checked, before anything is run."""

"""What comes from somebody else, and what is seen of it: the trials of X1 and X2."""

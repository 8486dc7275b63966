"""The table of trials: each row has a fault that is brought about many times, and what must hold then."""

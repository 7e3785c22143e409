"""A page on the device: what it sees and answers, live."""

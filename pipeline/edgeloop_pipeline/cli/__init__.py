"""The command line: what a person asks for, and what is printed."""

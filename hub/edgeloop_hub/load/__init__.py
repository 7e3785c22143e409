"""A load of test devices on a hub: what it does in a second, and how long it takes to answer."""

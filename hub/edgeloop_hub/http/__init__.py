"""HTTP itself: connection limits, and what an error looks like on the wire."""

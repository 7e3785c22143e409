"""The hub: registry of bundles, signed updates, rollouts in steps, and a page that shows the fleet."""

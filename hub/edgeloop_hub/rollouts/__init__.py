"""Rollouts: policy, evidence, gates, and the service that advances them."""

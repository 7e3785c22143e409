"""Signed updates: downloaded, tested, on trial, then committed or rolled back. A power cut at any point leaves a verified model."""

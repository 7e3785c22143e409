"""Alerts: what is wrong, told once to people by webhook, e-mail, ntfy and Slack."""

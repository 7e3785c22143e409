"""Where answers go: lines, MQTT, HTTP; each by rules of its own, and none in the way of inference."""

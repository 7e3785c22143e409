"""The local API of the device: Open Inference Protocol v2 over HTTP."""

"""What models cost on this device."""

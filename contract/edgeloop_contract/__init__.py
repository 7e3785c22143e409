"""What crosses a disk or a wire between workstation, hub and device."""

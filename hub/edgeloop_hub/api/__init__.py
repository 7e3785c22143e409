"""The hub's HTTP interface: for devices, for the workstation, for samples, for Prometheus."""

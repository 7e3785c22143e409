"""From labelled field data to a better model on the devices: decide, train, prove, publish. For cron."""

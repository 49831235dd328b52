"""Interface to the machine: durable writes, bounded reads, the console, devices and threads."""

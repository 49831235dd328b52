"""What stands between this program and the machine: durable writes and bounded reads."""

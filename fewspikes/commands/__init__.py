"""The commands: what each takes, how it ends, and what it prints and writes."""

"""The converted network: how it is called and run, and the report of what was done."""

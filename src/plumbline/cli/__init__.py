"""The command `plumbline`, one thin module a subcommand."""

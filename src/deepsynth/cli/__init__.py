"""The command line: Trainer's subcommands, the other commands, run folders and errors."""

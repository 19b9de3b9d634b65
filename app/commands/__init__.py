"""What the commands of `tollgate` do, each file imported only by the command that needs it, so that `--help` is quick."""

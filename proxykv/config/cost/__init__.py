"""What a run costs before it runs: operations, seconds and hours. Imports the rest of `config`."""

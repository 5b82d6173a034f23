"""The verbs of the command line: their options, and which command each calls. Imports little."""

"""The flags of a command, read as strictly as gcloud reads them. argparse is slow to import."""


class UsageError(Exception):
    """What is wrong with the arguments, in gcloud's words."""


def parsed(words, *, positionals=(), values=(), switches=()):
    """The arguments by name: flags without their dashes, None or False if they are not given.

    values: flags with a value, as --a=b or --a b. switches: flags without one.
    """
    given = {flag.strip("-"): None for flag in values}
    given |= {flag.strip("-"): False for flag in switches}
    names, words = list(positionals), list(words)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            if not names:
                raise UsageError(f"unrecognized arguments: {word}")
            given[names.pop(0)] = word
        elif flag in values:
            if not equals and not words:
                raise UsageError(f"argument {flag}: expected one argument")
            given[flag.strip("-")] = value if equals else words.pop(0)
        elif word in switches:
            given[flag.strip("-")] = True
        else:
            raise UsageError(f"unrecognized arguments: {word}")
    if names:
        raise UsageError(f"argument {names[0].upper()}: Must be specified.")
    return given

"""The part of gcloud's --format that tpu/*.sh use: value(a.b,c[0].d,e.len())."""


def formatted(resource, how):
    """One resource as --format has it; a key that is missing is empty, as with gcloud."""
    if how is None or not how.startswith("value(") or not how.endswith(")"):
        raise SystemExit(f"ERROR: this stand-in does not know --format={how}")
    return "\t".join(_shown(_get(resource, key.strip())) for key in how[6:-1].split(","))


def _get(resource, key):
    for part in key.replace("[", ".[").split("."):
        if part == "len()":
            resource = len(resource or ())
        elif part.startswith("["):
            number = int(part[1:-1])
            resource = resource[number] if resource and number < len(resource) else None
        else:
            resource = resource.get(part) if isinstance(resource, dict) else None
    return resource


def _shown(value):
    return "" if value is None else str(value)

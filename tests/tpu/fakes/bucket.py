"""What `gcloud storage ls` lists: buckets that are folders, or those of an emulator."""

import glob
import os

_SCHEME = "gs://"


def listed(folder, url):
    """The URLs of the objects that match, in their order. A `*` does not go beyond a slash.

    folder: of the buckets, unless STORAGE_EMULATOR_HOST has them.
    """
    if not url.startswith(_SCHEME):
        raise SystemExit(f"ERROR: (gcloud.storage.ls) {url}: only gs:// URLs can be listed")
    if "STORAGE_EMULATOR_HOST" in os.environ:
        return _of_emulator(os.environ["STORAGE_EMULATOR_HOST"], url.removeprefix(_SCHEME))
    found = glob.glob(f"{folder}/{url.removeprefix(_SCHEME)}")
    return sorted(f"{_SCHEME}{os.path.relpath(path, folder)}" for path in found)


def _of_emulator(endpoint, pattern):
    import json
    from fnmatch import fnmatchcase
    from urllib.parse import quote
    from urllib.request import urlopen

    bucket, _, rest = pattern.partition("/")
    prefix = quote(rest.partition("*")[0], safe="")
    with urlopen(f"{endpoint}/storage/v1/b/{bucket}/o?prefix={prefix}") as answer:
        names = [item["name"] for item in json.load(answer).get("items", ())]
    depth = rest.count("/")
    matching = [name for name in names if fnmatchcase(name, rest) and name.count("/") == depth]
    return sorted(f"{_SCHEME}{bucket}/{name}" for name in matching)

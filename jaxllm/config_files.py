"""Where configs are: given by path, or shipped with jaxllm and given by name."""

from pathlib import Path


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with jaxllm."""
    package = Path(__file__).parent
    installed, checkout = package / "configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """The file of a config given by path or by the name of a shipped one."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if str(path) in (path.stem, f"{path.stem}.yaml", f"configs/{path.stem}.yaml"):
        found = shipped.get(path.stem)
        if found is not None:
            return found
    raise ValueError(
        f"no config file {name!r}; give a path, or one of the shipped configs: {', '.join(shipped)}"
    )

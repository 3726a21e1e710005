"""``--mount type=…,src=…,dst=…`` as the API's Mount."""

from __future__ import annotations

from sampan.cli import units, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def parse(text: str) -> dict[str, Any]:
    """Parse one ``--mount``. Raises ValueError with Docker's words."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in values.csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals and key not in _ALONE:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        setter = _KEYS.get(key)
        if setter is None:
            raise ValueError(f"unknown option '{key}' in '{field}'")
        setter(mount, value if equals else "true")
    _check(mount)
    return mount


def _check(mount: dict[str, Any]) -> None:
    kind = mount["Type"]
    if not kind:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, owner in (("VolumeOptions", "volume"), ("BindOptions", "bind"), ("TmpfsOptions", "tmpfs")):
        if name in mount and kind != owner:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    if "ImageOptions" in mount and kind != "image":
        raise ValueError(f"cannot mix 'image-*' options with mount type '{kind}'")
    if mount.get("BindOptions", {}).get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise ValueError(
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"
        )


def _text(key: str) -> Callable[[dict[str, Any], str], None]:
    def set_text(mount: dict[str, Any], value: str) -> None:
        mount[key] = value

    return set_text


def _source(mount: dict[str, Any], value: str) -> None:
    if value == "." or value.startswith(("./", "../")) or value == "..":
        import os

        value = os.path.abspath(value)
    mount["Source"] = value


def _boolean(text: str, key: str) -> bool:
    if text in ("true", "1", "True", "TRUE", "t", "T"):
        return True
    if text in ("false", "0", "False", "FALSE", "f", "F"):
        return False
    raise ValueError(f"invalid value for {key}: {text}")


def _readonly(mount: dict[str, Any], value: str) -> None:
    mount["ReadOnly"] = _boolean(value, "readonly")


def _propagation(mount: dict[str, Any], value: str) -> None:
    mount.setdefault("BindOptions", {})["Propagation"] = value.lower()


def _recursive(mount: dict[str, Any], value: str) -> None:
    options = mount.setdefault("BindOptions", {})
    if value in ("enabled", "writable", "readonly"):
        if value == "writable":
            options["ReadOnlyNonRecursive"] = True
        elif value == "readonly":
            options["ReadOnlyForceRecursive"] = True
        return
    if value != "disabled":
        raise ValueError(f"invalid value for bind-recursive: {value}")
    options["NonRecursive"] = True


def _non_recursive(mount: dict[str, Any], value: str) -> None:
    mount.setdefault("BindOptions", {})["NonRecursive"] = _boolean(value, "bind-nonrecursive")


def _create_source(mount: dict[str, Any], value: str) -> None:
    mount.setdefault("BindOptions", {})["CreateMountpoint"] = _boolean(value, "bind-create-src")


def _volume_label(mount: dict[str, Any], value: str) -> None:
    key, _, content = value.partition("=")
    mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[key] = content


def _volume_driver(mount: dict[str, Any], value: str) -> None:
    mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value


def _volume_opt(mount: dict[str, Any], value: str) -> None:
    key, _, content = value.partition("=")
    driver = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
    driver.setdefault("Options", {})[key] = content


def _no_copy(mount: dict[str, Any], value: str) -> None:
    mount.setdefault("VolumeOptions", {})["NoCopy"] = _boolean(value, "volume-nocopy")


def _subpath(owner: str) -> Callable[[dict[str, Any], str], None]:
    def set_subpath(mount: dict[str, Any], value: str) -> None:
        mount.setdefault(owner, {})["Subpath"] = value

    return set_subpath


def _tmpfs_size(mount: dict[str, Any], value: str) -> None:
    try:
        mount.setdefault("TmpfsOptions", {})["SizeBytes"] = units.parse_size(value)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-size: {value}") from None


def _tmpfs_mode(mount: dict[str, Any], value: str) -> None:
    try:
        mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-mode: {value}") from None


def _consistency(mount: dict[str, Any], value: str) -> None:
    mount["Consistency"] = value.lower()


def _type(mount: dict[str, Any], value: str) -> None:
    mount["Type"] = value.lower()


_ALONE = frozenset({"readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"})
_KEYS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "type": _type,
    "source": _source,
    "src": _source,
    "target": _text("Target"),
    "dst": _text("Target"),
    "destination": _text("Target"),
    "readonly": _readonly,
    "ro": _readonly,
    "consistency": _consistency,
    "bind-propagation": _propagation,
    "bind-nonrecursive": _non_recursive,
    "bind-recursive": _recursive,
    "bind-create-src": _create_source,
    "volume-subpath": _subpath("VolumeOptions"),
    "volume-nocopy": _no_copy,
    "volume-label": _volume_label,
    "volume-driver": _volume_driver,
    "volume-opt": _volume_opt,
    "image-subpath": _subpath("ImageOptions"),
    "tmpfs-size": _tmpfs_size,
    "tmpfs-mode": _tmpfs_mode,
}

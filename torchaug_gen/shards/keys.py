"""Keys: what samples are called, safe to become the names of files."""

import hashlib

# Where archives are unpacked a name may have 255 bytes, and the field comes behind the key.
_LONGEST = 180


def safe_key(key: str) -> str:
    """Return a key as it can stand in an archive: no way out of a folder, no dot where fields begin, no odd character.

    Folders stay. A key that has to be changed gets a digest of itself, so that two that differ stay two.

    Raises:
        TypeError: no string.
        ValueError: an empty one.

    >>> safe_key("train/v1.0/cat_7")
    'train/v1.0/cat_7'
    >>> safe_key("../../etc/passwd.txt")
    'etc/passwd_txt-30118061'
    """
    if not isinstance(key, str):
        raise TypeError(f"a key must be a string, got {key!r}")
    if not key:
        raise ValueError("a key must not be empty")
    *folders, base = key.split("/")
    parts = [_safe(folder, ".") for folder in folders if folder.strip(".")] + [_safe(base, "")]
    safe = "/".join(parts)
    if safe == key and len(key.encode()) <= _LONGEST:
        return key
    # Cut by characters, which have four bytes at most.
    short = safe if len(safe.encode()) <= _LONGEST else safe[: _LONGEST // 4].rstrip("/")
    return f"{short}-{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def _safe(part: str, more: str) -> str:
    kept = "".join(sign if sign.isalnum() or sign in f"_-+=@,{more}" else "_" for sign in part)
    # Readers take folders like "__meta__" for their own, and shells names with a leading dash for options.
    return f"_{kept[1:].lstrip('_')}" if kept.startswith(("__", "-", ".")) else kept or "_"

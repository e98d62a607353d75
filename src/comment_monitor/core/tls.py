"""Turns libpq's TLS parameters into an `SSLContext` that verifies what libpq would verify."""

import ssl
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from comment_monitor.core.errors import ConfigurationError

SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ENCRYPTED: Final = SSLMODES[3:]
# Parameters of encrypted connections only. With a mode that permits plain text, libpq and asyncpg treat them
# differently.
ONLY_ENCRYPTED: Final = (
    "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version",
)  # fmt: skip
VERSIONS: Final = {
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
SYSTEM: Final = "system"
# Libpq's folder in the user's home.
HOME_FOLDER: Final = ".postgresql"


def complete(parts: MutableMapping[str, str]) -> None:
    """Adds libpq's defaults to `parts`: the mode, and files in the user's home.

    Raises:
        ConfigurationError: parameters contradict each other, or need a certificate that is missing.
    """
    mode = parts.setdefault("sslmode", "verify-full" if parts.get("sslrootcert") == SYSTEM else "prefer")
    if mode not in SSLMODES:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: sslmode must be one of {', '.join(SSLMODES)}")
    if mode not in ENCRYPTED:
        if given := [name for name in ONLY_ENCRYPTED if name in parts]:
            raise ConfigurationError(
                f"POSTGRES_DSN=<hidden>: {given[0]} needs sslmode={', '.join(ENCRYPTED[:-1])} or {ENCRYPTED[-1]}; "
                f"with {mode} the connection may be unencrypted"
            )
        return
    _complete_files(parts)
    if parts.get("sslrootcert") == SYSTEM:
        _require_system(parts, mode)
    elif mode != "require" and "sslrootcert" not in parts:
        raise ConfigurationError(
            f"POSTGRES_DSN=<hidden>: sslmode={mode} needs the certificate of the authority: set sslrootcert to its "
            f"file, or to {SYSTEM} for the authorities that this machine trusts"
        )


def _complete_files(parts: MutableMapping[str, str]) -> None:
    for name, file in (("sslrootcert", "root.crt"), ("sslcrl", "root.crl"), ("sslcert", "postgresql.crt")):
        if name not in parts and (found := _in_home(file)):
            parts[name] = found
    if "sslcert" in parts and "sslkey" not in parts and (found := _in_home("postgresql.key")):
        parts["sslkey"] = found


def _in_home(file: str) -> str | None:
    try:
        path = Path.home() / HOME_FOLDER / file
        return str(path) if path.is_file() else None
    except (OSError, RuntimeError):  # no home, or no permission to read it
        return None


def _require_system(parts: MutableMapping[str, str], mode: str) -> None:
    if mode != "verify-full":
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: sslrootcert={SYSTEM} needs sslmode=verify-full")
    # The OpenSSL libraries behind Python and libpq have different default files: both get the one of Python.
    if file := ssl.get_default_verify_paths().cafile:
        parts["sslrootcert"] = file


def context(parts: Mapping[str, str]) -> ssl.SSLContext | str:
    """Returns the `ssl` argument for asyncpg: a context, or the name of a mode in which nothing is verified.

    Args:
        parts: libpq's parameters after `complete`.

    Raises:
        ConfigurationError: a file can't be used, or a version is unknown.
    """
    mode = parts["sslmode"]
    if mode not in ENCRYPTED:
        return mode
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = mode == "verify-full"
    made.minimum_version = _version(parts, "ssl_min_protocol_version", "TLSv1.2")
    if "ssl_max_protocol_version" in parts:
        made.maximum_version = _version(parts, "ssl_max_protocol_version", "TLSv1.3")
        if made.maximum_version < made.minimum_version:
            raise ConfigurationError(
                "POSTGRES_DSN=<hidden>: ssl_max_protocol_version is below ssl_min_protocol_version"
            )
    made.set_alpn_protocols(["postgresql"])
    try:
        _load(made, parts)
    except OSError as error:  # includes ssl.SSLError
        raise ConfigurationError(
            f"POSTGRES_DSN=<hidden>: sslrootcert, sslcert, sslkey or sslcrl can't be used ({error.strerror or error})"
        ) from None
    return made


def _load(made: ssl.SSLContext, parts: Mapping[str, str]) -> None:
    root = parts.get("sslrootcert")
    if root == SYSTEM:
        made.load_default_certs()
    elif root:
        made.load_verify_locations(cafile=root)
    else:
        made.verify_mode = ssl.CERT_NONE
    if parts.get("sslcrl"):
        made.load_verify_locations(cafile=parts["sslcrl"])
        made.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if parts.get("sslcert"):
        # Without a callback, OpenSSL would ask for the passphrase of an encrypted key on the terminal.
        made.load_cert_chain(parts["sslcert"], parts.get("sslkey"), lambda: parts.get("sslpassword", ""))


def _version(parts: Mapping[str, str], name: str, default: str) -> ssl.TLSVersion:
    known = {version.lower(): found for version, found in VERSIONS.items()}
    try:
        return known[parts.get(name, default).lower()]
    except KeyError:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: {name} must be one of {', '.join(VERSIONS)}") from None

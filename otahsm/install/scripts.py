"""The shell scripts that run on a device: POSIX sh, with the tools of busybox.

The folder `import` is replaced as a whole: the new folder is written beside it, and takes its place by two
renames. After a crash between them, the next script repairs it: the device has the old files, the new ones
or, for that moment, none, but never a mix. No secret is in an argument of a program: they come in on standard
input. Devices have symbolic links above that folder; at or in it, none is followed.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from typing import Final

from otahsm.errors import ConfigError
from otahsm.install.aktualizr import holds_pin

# The identity of a device: if one of them is not sent, the old one is deleted.
IDENTITY: Final = frozenset({"pkey.pem", "client.pem"})
_NO_TOOL: Final = 41
_IN_THE_WAY: Final = 42
_IS_FOLDER: Final = 43
EXPLAINED: Final = {
    _NO_TOOL: "a required program is missing: mkdir, mv, cp, chmod, rm, sync, sha256sum",
    _IN_THE_WAY: "import or its parent is not a folder, or it is a symbolic link",
    _IS_FOLDER: "sota.toml is a folder",
}

_BEGIN: Final = f"""
set -eu
umask 077
for tool in mkdir mv cp chmod rm cat ls sync sha256sum; do
    command -v "$tool" >/dev/null 2>&1 || exit {_NO_TOOL}
done
base=${{import%/*}} leaf=${{import##*/}}
new=$base/.$leaf.otahsm-new old=$base/.$leaf.otahsm-old
if [ -h "$import" ]; then exit {_IN_THE_WAY}; fi
for path in "$base" "$import"; do
    if [ -e "$path" ] && [ ! -d "$path" ]; then exit {_IN_THE_WAY}; fi
done
"""
_MEND: Final = """
if [ ! -e "$import" ] && [ -d "$old" ] && [ ! -h "$old" ]; then mv "$old" "$import"; fi
rm -rf "$new" "$old"
"""
_LOOK: Final = """
tell() {
    if [ -f "$1" ] && [ ! -h "$1" ]; then
        set -- "$1" $(sha256sum <"$1") $(ls -ln "$1")
        echo "file ${1##*/} $2 $4 $6"
    fi
}
for name in pkey.pem client.pem root.crt gateway.url; do
    tell "$import/$name"
done
if [ -h "$base/sota.toml" ] || [ -d "$base/sota.toml" ]; then
    echo "file sota.toml none none none"
else
    tell "$base/sota.toml"
fi
if [ -f "$import/client.pem" ] && [ ! -h "$import/client.pem" ]; then
    echo certificate
    cat "$import/client.pem"
fi
"""


def look_script(directory: str) -> str:
    """Return the script that lists the installed files.

    It prints a line `file NAME SHA256 MODE UID` for each of our files, with `none` for a sota.toml that is a
    link or a folder; then `certificate` and the certificate, if there is one. It first repairs what a crash
    left.

    Args:
        directory: the absolute path of `import`, on the device.
    """
    return f"import={shlex.quote(directory)}\n{_BEGIN}{_MEND}{_LOOK}"


def install_script(directory: str, contents: Mapping[str, bytes], sota_toml: str) -> str:
    """Return the script that installs files, and then lists them as `look_script`.

    Args:
        directory: the absolute path of `import`, on the device.
        contents: contents by name; all except gateway.url end with a line end.
        sota_toml: the content of sota.toml; empty to write none.

    Raises:
        ConfigError: a file is not text.
    """
    toml = "$base/sota.toml"
    parts = [
        f"import={shlex.quote(directory)}\n{_BEGIN}",
        # mv would move it into a folder, also where a link leads.
        f'if [ -d "{toml}" ] && [ ! -h "{toml}" ]; then exit {_IS_FOLDER}; fi\n' if sota_toml else "",
        '(umask 022 && mkdir -p "$base")\n',
        _MEND,
        'mkdir "$new"\nif [ -d "$import" ]; then cp -a "$import/." "$new/"; fi\n',
        *(f'rm -f "$new/{name}"\n' for name in sorted(IDENTITY | contents.keys())),
        *(_write(f"$new/{name}", content) for name, content in contents.items()),
    ]
    modes = {name: "600" if name == "pkey.pem" else "644" for name in contents}
    parts += [f'chmod {mode} "$new/{name}"\n' for name, mode in modes.items()]
    ours = " ".join(f'"$new/{name}"' for name in contents)
    parts += [
        'chmod 700 "$new"\n',
        f'if [ "$(id -u)" = 0 ]; then chown 0:0 "$new" {ours}; fi\n',
        # Files and folders by name; an old BusyBox flushes everything, with a warning.
        f'sync {ours} "$new" 2>/dev/null\n',
        'if [ -d "$import" ]; then mv "$import" "$old"; fi\n',
        'mv "$new" "$import"\n',
        'sync "$base" 2>/dev/null\nrm -rf "$old"\n',
    ]
    if sota_toml:
        temporary = "$base/.sota.toml.otahsm-new"
        mode = "600" if holds_pin(sota_toml) else "644"
        parts += [
            f'rm -rf "{temporary}"\n',
            _write(temporary, sota_toml.encode()),
            f'chmod {mode} "{temporary}"\nsync "{temporary}" 2>/dev/null\n',
            f'if [ -h "{toml}" ]; then rm -f "{toml}"; fi\n',
            f'mv -f "{temporary}" "{toml}"\nsync "$base" 2>/dev/null\n',
        ]
    return "".join((*parts, _LOOK))


def _write(path: str, content: bytes) -> str:
    """Return the commands that write a new file; `cat` gets the content on its standard input."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{path.rpartition('/')[2]} is not ASCII text") from None
    if text.endswith("\n"):
        end = f"END-{secrets.token_hex(8)}"
        command = f"cat >\"{path}\" <<'{end}'\n{text}{end}\n"
    else:  # gateway.url, which is not a secret
        command = f'printf %s {shlex.quote(text)} >"{path}"\n'
    return f"set -C\n{command}set +C\n"  # it writes through no link that somebody has put there

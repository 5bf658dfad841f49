# SPDX-License-Identifier: Apache-2.0
"""What runs on a node besides the job itself: small POSIX scripts, busybox included. Pure.

A session marks whatever it starts twice: by the Unix session that `setsid` opened, whose id
is kept in a private file, and by a variable in the environment, which children inherit even
when they leave that session. Ending it means ending both sets, read from /proc, because
zombies must not count as alive and `kill` of a group cannot tell.
"""

import re
from collections.abc import Mapping, Sequence
from shlex import quote

from ci.errors import ConfigError

MARK = "HYPERVOUCH_SESSION"
# The script travels on standard input, so that neither it nor the environment it sets stands
# in the node's process list; the login shell, whichever it is, only has to start `sh`.
ENTRY = "exec sh -c 'eval \"$(cat)\"'"
INTERRUPT_S = 2
TERMINATE_S = 3
KILL_S = 2
NO_DIRECTORY = 3
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def checked_directory(directory: str) -> str:
    """A directory on a node that may be emptied.

    Raises:
        ConfigError: It is relative, the root, one below the root, or has a `..`.
    """
    parts = [part for part in directory.split("/") if part not in {"", "."}]
    if not directory.startswith("/") or ".." in parts or len(parts) < 2 or "\0" in directory:  # noqa: PLR2004
        raise ConfigError(
            f"{directory!r} is no directory that a build may fill",
            hint="set the node's workdir to an absolute path at least two levels deep",
        )
    return directory


def exports(env: Mapping[str, str]) -> str:
    """`export` lines for the variables.

    Raises:
        ConfigError: A name is none, or a value holds a NUL.
    """
    lines = []
    for name, value in env.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ConfigError(f"{name!r} is no environment variable", hint="mend the job's env")
        lines.append(f"export {name}={quote(value)}\n")
    return "".join(lines)


def put(directory: str) -> str:
    """Unpack the tar on standard input into `directory`, emptied before."""
    where = quote(checked_directory(directory))
    steps = 'rm -rf -- "$1" && mkdir -p -- "$1" && cd -- "$1" && exec tar -xof -'
    return f"exec sh -c {quote(steps)} sh {where}"


def run(command: str, *, directory: str, env: Mapping[str, str], token: str, number: int) -> str:
    """Run a command in a Unix session of its own; its exit status becomes the script's.

    The outer shell stays outside that session: it outlives whatever ends the command and
    reports it as 128 + signal. The parentheses keep `setsid` in a child that leads no
    process group, so that it need not fork and lose the status.
    """
    record = quote(f"{_record(token)}{number}")
    inner = 'umask 077; set -C; echo $$ >"$0" || exit 125; set +C; umask 022; exec sh -c "$1"'
    return (
        f"umask 022\ncd -- {quote(directory)} 2>&1 || exit 125\n"
        # Within the parentheses: the outer shell's own children must not carry the mark.
        f"(\n{exports({**env, MARK: token})}"
        f"exec setsid sh -c {quote(inner)} {record} {quote(command)} </dev/null 2>&1\n)\n"
        f"s=$?\nread -r id <{record} && kill -s 0 -- -$id 2>/dev/null || rm -f -- {record}\n"
        "exit $s\n"
    )


def end(token: str) -> str:
    """Interrupt, terminate, then kill all that a session started; status 0 when all is gone."""
    return (
        f"{_PIDS}"
        f"for step in 'INT {INTERRUPT_S}' 'TERM {TERMINATE_S}' 'KILL {KILL_S}'; do\n"
        "  set -- $step; i=0; sent=\n"
        "  while [ $i -lt $(( $2 * 10 )) ]; do\n"
        f'    p=$(pids {token}); [ -n "$p" ] || break 2\n'
        '    if [ -z "$sent" ] || [ "$1" = KILL ]; then kill -s $1 $p 2>/dev/null; sent=1; fi\n'
        "    sleep 0.1 2>/dev/null || sleep 1; i=$((i + 1))\n"
        "  done\n"
        "done\n"
        f'if [ -n "$p" ]; then p=$(pids {token}); [ -z "$p" ] || exit 1; fi\n'
        f"rm -f -- {_record(token)}*\nexit 0\n"
    )


def fetch(patterns: Sequence[str], *, directory: str, limit_bytes: int) -> str:
    """List what is too large (NUL-terminated, an empty name at the end), then tar the rest.

    `find` is asked for a superset of the globs, since its `*` crosses folders; the reader
    filters again. Names never pass through a shell.
    """
    wanted = " -o ".join(f"-path {quote('./' + _for_find(pattern))}" for pattern in patterns)
    large = f"-size +{limit_bytes}c"
    return (
        f"cd -- {quote(directory)} || exit {NO_DIRECTORY}\n"
        f"find . \\( {wanted} \\) -type f {large} -print0 2>/dev/null\n"
        "printf '\\0'\n"
        f"find . \\( {wanted} \\) ! -type d ! \\( -type f {large} \\) -exec tar -cf - {{}} +\n"
        "exit 0\n"
    )


def _for_find(pattern: str) -> str:
    text = pattern.removeprefix("./").replace("\\", "\\\\")
    text += "*" if text.endswith("/") else ""
    return text.replace("**/", "*").replace("**", "*")


def _record(token: str) -> str:
    return f"/tmp/.hypervouch-{token}-"  # noqa: S108 the random token makes it private


_PIDS = r"""pids() {
  all=
  for f in /tmp/.hypervouch-$1-*; do
    id=; [ -f "$f" ] && read -r id <"$f"
    case $id in ''|*[!0-9]*) ;; *) all="$all|$id" ;; esac
  done
  {
    [ -z "$all" ] || cat /proc/[0-9]*/stat 2>/dev/null |
      sed -nE "s/^([0-9]+) \(.*\) [^ZX] [0-9]+ [0-9]+ (none$all) .*/\1/p"
    for f in $(grep -ls "HYPERVOUCH_SESSION=$1" /proc/[0-9]*/environ 2>/dev/null); do
      f=${f#/proc/}; echo "${f%/environ}"
    done
  } | { [ -z "$all" ] && cat || sort -u; }
}
"""

# SPDX-License-Identifier: Apache-2.0
"""What runs on a node besides the job itself: small POSIX scripts, busybox included. Pure.

A session marks whatever it starts twice: by the Unix session that `setsid` opened, whose id
is kept in a private file, and by a variable in the environment, which children inherit even
when they leave that session. Ending it means ending both sets, read from /proc, because
zombies must not count as alive and `kill` of a group cannot tell.

All sessions in one working directory share the first half of their marks, their family. A
holder that died cannot end what it started; so whoever puts the next tree there first ends
the whole family. Its records are old then, and process ids are used again: a record also
holds the start tick of its process and the id of the boot, and counts only from our own hand.
"""

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from shlex import quote

from ci.errors import ConfigError, NodeUnavailable
from ci.runners import stop
from ci.runners.stop import Grace

MARK = "HYPERVOUCH_SESSION"
# The script travels on standard input, so that neither it nor the environment it sets stands
# in the node's process list; the login shell, whichever it is, only has to start `sh`.
ENTRY = "exec sh -c 'eval \"$(cat)\"'"
NO_DIRECTORY = 3
# No tool that unpacks a tree ends with it.
LEFTOVERS = 113
BOOT_ID = "/proc/sys/kernel/random/boot_id"
MAX_NAMED = 5
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


def family(workdir: str) -> str:
    """What the tokens of all sessions in a working directory begin with; of fixed length."""
    return hashlib.sha256(posixpath.normpath(workdir).encode()).hexdigest()[:16]


def record(token: str, number: int | str) -> str:
    """The file on the node that holds the id of a session's numbered command."""
    return f"/tmp/.hypervouch-{token}-{number}"  # noqa: S108 exclusive, and read by its owner only


def put(directory: str, *, family: str, token: str) -> str:
    """End what is left of a family, then unpack a tar into `directory`, emptied before.

    Status LEFTOVERS when something could not be ended; it is named. What empties and unpacks
    carries the mark as well: it may itself be left behind.
    """
    where = quote(checked_directory(directory))
    steps = 'rm -rf -- "$1" && mkdir -p -- "$1" && cd -- "$1" && exec tar -xof -'
    return (
        f"(\n{end(family, stop.LEFTOVERS, tell=False)}) </dev/null || exit {LEFTOVERS}\n"
        f"export {MARK}={token}\n"
        f"exec sh -c {quote(steps)} sh {where}\n"
    )


def put_entry(size_bytes: int) -> str:
    """What starts a `put` script of so many bytes; it stands in front of the tar.

    Only `dd` by single bytes is sure to leave the rest of the stream alone.
    """
    return f"exec sh -c 'eval \"$(dd bs=1 count={size_bytes} 2>/dev/null)\"'"


def left_behind(where: str, said: str) -> NodeUnavailable:
    """The error for processes, one a line, of an earlier build that could not be ended."""
    names = ["".join(c if c.isprintable() else "?" for c in line) for line in said.splitlines()]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return NodeUnavailable(
        f"{where} still runs what an earlier build left and cannot end it: "
        f"{', '.join(names[:MAX_NAMED]) or 'it did not say what'}{more}",
        hint="end these processes there by hand, or restart the machine",
    )


def run(command: str, *, directory: str, env: Mapping[str, str], token: str, number: int) -> str:
    """Run a command in a Unix session of its own; its exit status becomes the script's.

    The outer shell stays outside that session: it outlives whatever ends the command and
    reports it as 128 + signal; where nobody listens any more it still tidies, hence the trap,
    which its children do not inherit. The parentheses keep `setsid` in a child that leads no
    process group, so that it need not fork and lose the status.
    """
    file = quote(record(token, number))
    inner = (
        f"boot=; read -r boot <{BOOT_ID}; read -r born </proc/$$/stat; "
        'set -- "$1" ${born##*) }; umask 077; set -C; '
        'echo "$$ ${21} $boot" >"$0" || exit 125; set +C; umask 022; exec sh -c "$1"'
    )
    return (
        f"trap : PIPE\numask 022\ncd -- {quote(directory)} 2>&1 || exit 125\n"
        # Within the parentheses: the outer shell's own children must not carry the mark.
        f"(\n{exports({**env, MARK: token})}"
        f"exec setsid sh -c {quote(inner)} {file} {quote(command)} </dev/null 2>&1\n)\n"
        f"s=$?\nread -r id rest <{file} && kill -0 -$id 2>/dev/null || rm -f -- {file}\n"
        "exit $s\n"
    )


def end(mark: str, grace: Grace, *, tell: bool = True) -> str:
    """Interrupt, terminate, then kill all that a token or a family started.

    Each signal has its time by the node's clock, however slow the node is. What each one did
    stands on standard output (see `ci.runners.stop.read`) where `tell` asks for it. Status 0
    when all is gone; else 1, and what is left stands there as well.
    """
    steps = " ".join(f"'{s.name[3:]} {round(seconds * 100)}'" for s, seconds in grace.steps)
    said = 'echo "=$1 $n $(count $p) $((t - from))"' if tell else ":"
    return (
        f"{_PIDS}p=\n"
        f"for step in {steps}; do\n"
        f'  p=$(pids {mark}); [ -n "$p" ] || break\n'
        "  set -- $step; n=$(count $p); now; from=$t\n"
        "  kill -s $1 $p 2>/dev/null\n"
        "  while :; do\n"
        "    sleep 0.1 2>/dev/null || sleep 1; i=$((i + 1))\n"
        f"    p=$(pids {mark}); now\n"
        '    if [ -z "$p" ] || [ $((t - from)) -ge $2 ]; then break; fi\n'
        '    if [ "$1" = KILL ]; then kill -s KILL $p 2>/dev/null; fi\n'
        "  done\n"
        f"  {said}\n"
        "done\n"
        'if [ -n "$p" ]; then\n'
        "  for i in $p; do\n"
        '    n=; read -r n 2>/dev/null </proc/$i/comm; echo "$i (${n:-?})"\n'
        "  done\n"
        "  exit 1\n"
        "fi\n"
        f"for f in {record(mark, '')}*; do\n"
        '  if [ -e "$f" ] || [ -L "$f" ]; then rm -f -- "$f"; fi\n'
        "done\nexit 0\n"
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


# `now` puts the seconds since the boot, times a hundred, into t; without them it counts turns.
_PIDS = r"""i=0
now() {
  t=; read -r t rest 2>/dev/null </proc/uptime; t=${t%.*}${t#*.}; t=${t#0}; t=${t#0}
  case $t in ''|*[!0-9]*) t=$((i * 10)) ;; esac
}
count() { echo $#; }
marked() {
  for f in $(grep -ls "MARK=$mark" /proc/[0-9]*/environ 2>/dev/null); do
    f=${f#/proc/}; echo "${f%/environ}"
  done
}
led() {
  cat /proc/[0-9]*/stat 2>/dev/null |
    sed -nE "s/^([0-9]+) \(.*\) [^ZX] [0-9]+ [0-9]+ (none$all) .*/\1/p"
}
pids() {
  mark=$1; all=; now=; read -r now <BOOT_ID
  for f in /tmp/.hypervouch-$mark-*; do
    id=; [ -f "$f" ] && [ ! -L "$f" ] && [ -O "$f" ] && read -r id born boot <"$f"
    case $id in ''|0|1|*[!0-9]*) continue ;; esac
    [ "$boot" = "$now" ] || continue
    s=; read -r s 2>/dev/null </proc/$id/stat
    set -- ${s##*) }
    case ${20} in ''|"$born") all="$all|$id" ;; esac
  done
  if [ -z "$all" ]; then marked; else { led; marked; } | sort -u; fi
}
""".replace("BOOT_ID", BOOT_ID).replace("MARK", MARK)

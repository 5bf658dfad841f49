# SPDX-License-Identifier: Apache-2.0
"""`hypervouch`: parses the command line, builds what a verb needs, calls one function."""

import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ci import log, plain
from ci.cli_database import add_database
from ci.cli_drain import add_drain
from ci.cli_lab import add_lab
from ci.cli_matrix import add_matrix
from ci.cli_nodes import add_nodes
from ci.cli_pauses import add_pauses
from ci.cli_processes import add_processes, asked_to_end_is_ctrl_c, stop_signal
from ci.cli_suite import add_suite
from ci.errors import ConfigError, HypervouchError

DEFAULT_CONFIG = "config"
F = TypeVar("F", bound=Callable[..., Any])


class ErrorGroup(click.Group):
    """Shows every error of ours as one clear message and exit status 1, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except HypervouchError as error:
            click.secho(f"hypervouch: {plain.text(error.message)}", fg="red", err=True)
            if error.hint:
                click.echo(f"  fix: {plain.text(error.hint)}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            sys.stderr.close()
            ctx.exit(1)


@click.group(cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hypervouch")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    envvar="HYPERVOUCH_LOG_LEVEL",
    show_envvar=True,
    help="Least level shown.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    envvar="HYPERVOUCH_LOG_FORMAT",
    show_envvar=True,
    help="How log lines look; by default json where standard error is no terminal.",
)
def main(log_level: str, log_format: str | None) -> None:
    """Third-party CI for hypervisor drivers: a patch reaches a hypervisor, a vote and a page."""
    _check_own_package()
    as_json = None if log_format is None else log_format == "json"
    log.configure(level=log_level.upper(), json_lines=as_json)


def _check_own_package() -> None:
    """Our packages have plain names: make sure that `ci` is ours and not a checkout's."""
    import ci  # noqa: PLC0415 - the very import that is being checked

    if Path(ci.__file__ or "").resolve().parent != Path(__file__).resolve().parent:
        raise ConfigError(
            f"another package named ci shadows ours: {ci.__file__}",
            hint="run hypervouch from another directory",
        )


def config_option(function: F) -> F:
    """`--config`, the same for every verb that needs the configuration."""
    return click.option(
        "-c",
        "--config",
        "config",
        type=click.Path(path_type=Path),
        default=lambda: Path(os.environ.get("HYPERVOUCH_CONFIG", DEFAULT_CONFIG)),
        show_default="$HYPERVOUCH_CONFIG or ./config",
        help="A YAML file, or a directory of them.",
    )(function)


def json_option(function: F) -> F:
    """`--json`, the same for every listing."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@main.command()
@click.option("--once", is_flag=True, help="Exit when the votes are in: 0 if they are right.")
@click.option(
    "--gerrit",
    type=click.Choice(["sandbox", "real"]),
    default="sandbox",
    show_default=True,
    help="The review server: ours in this process, or a real Gerrit on loopback.",
)
@click.option(
    "--hypervisor",
    type=click.Choice(["auto", "qemu", "emulator"]),
    default="auto",
    show_default=True,
    help="auto: QEMU where it can be had, else the emulator.",
)
@click.option("--port", default=8088, show_default=True, help="Port of the page; 0: any free one.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep everything in this directory.")
@click.option(
    "--lab",
    default="",
    metavar="NAME[,NAME]",
    help="Then run the compute suite on these hypervisors, or on `all`, for the matrix.",
)
def demo(
    *, once: bool, gerrit: str, hypervisor: str, port: int, keep: Path | None, lab: str
) -> None:
    """Show the whole flow on this machine: patches, a hypervisor, votes, a page."""
    from ci.demo.run import run_demo  # noqa: PLC0415 - nothing of it is needed elsewhere

    log.configure(level="ERROR")
    asked = stop_signal()
    status = run_demo(
        gerrit=gerrit, hypervisor=hypervisor, port=port, keep=keep, once=once, asked=asked, lab=lab
    )
    sys.exit(status)


add_processes(main, config_option)
add_database(main, config_option)
add_lab(main, asked_to_end_is_ctrl_c)


@main.group()
def config() -> None:
    """Check and show the configuration."""


@config.command("check")
@config_option
@json_option
@click.option("--preview", is_flag=True, help="Print the comments of each pipeline as well.")
def config_check(config: Path, as_json: bool, preview: bool) -> None:
    """Show every mistake at once as file:line:col: path: message."""
    from ci import settings  # noqa: PLC0415
    from ci.app import check_driver  # noqa: PLC0415

    problems = settings.check(config, check_driver)
    if preview and not problems:
        from ci.preview import show  # noqa: PLC0415

        sys.exit(0 if show(settings.load(config, check_driver), as_json=as_json) else 1)
    if as_json:
        click.echo(json.dumps([vars(p) | {"file": str(p.file)} for p in problems], indent=1))
    else:
        for problem in problems:
            click.echo(str(problem))
        if not problems:
            click.echo(f"{config}: no mistakes found")
    sys.exit(1 if problems else 0)


@config.command("show")
@config_option
def config_show(config: Path) -> None:
    """Print the configuration as it is understood, defaults included, as JSON."""
    from ci.app import load_layout  # noqa: PLC0415

    click.echo(load_layout(config).model_dump_json(by_alias=True, indent=1))


@config.command("schema")
def config_schema() -> None:
    """Print the JSON schema of one configuration file."""
    from ci import settings  # noqa: PLC0415

    click.echo(json.dumps(settings.json_schema(), indent=2, ensure_ascii=False))


@main.command()
@config_option
@json_option
def doctor(config: Path, as_json: bool) -> None:
    """Try each thing that can be wrong, and say how to mend it."""
    from ci.app import load_layout  # noqa: PLC0415
    from ci.doctor import examine  # noqa: PLC0415

    findings = list(examine(load_layout(config)))
    if as_json:
        click.echo(json.dumps([vars(f) for f in findings], indent=1))
    else:
        for finding in findings:
            mark = (
                click.style("ok  ", fg="green") if finding.good else click.style("BAD ", fg="red")
            )
            click.echo(f"{mark} {plain.text(f'{finding.what}: {finding.message}')}")
            if finding.hint:
                click.echo(f"      fix: {plain.text(finding.hint)}")
    sys.exit(0 if all(f.good for f in findings) else 1)


@main.command()
@config_option
@click.argument("what", metavar="EVENT.json|CHANGE")
@click.option("--connection", help="Only this one; which server a change's number is of.")
@click.option("--file", "files", multiple=True, help="A changed file, for file filters.")
def explain(config: Path, what: str, connection: str | None, files: tuple[str, ...]) -> None:
    """Say what an event (a file, as stream-events sends it) or a change would start, and why."""
    from ci import explain as explanation  # noqa: PLC0415

    for line in explanation.explain(config, what, connection=connection, files=files):
        click.echo(line)


@main.command()
@config_option
@json_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 200))
@click.option(
    "--state",
    type=click.Choice(["queued", "running", "done", "canceled"]),
    help="Only this state.",
)
def builds(config: Path, as_json: bool, limit: int, state: str | None) -> None:
    """List builds, newest first."""
    from ci.listings import show_builds  # noqa: PLC0415

    show_builds(config, as_json=as_json, limit=limit, state=state)


@main.command()
@config_option
@json_option
@click.argument("build_id")
def build(config: Path, as_json: bool, build_id: str) -> None:
    """Show one build: its verdict, why, and every attempt."""
    from ci.listings import show_build  # noqa: PLC0415

    show_build(config, build_id, as_json=as_json)


@main.command()
@config_option
@click.argument("build_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the build ends.")
@click.option("--attempt", type=int, help="Number of the attempt; the newest by default.")
def logs(config: Path, build_id: str, follow: bool, attempt: int | None) -> None:
    """Print a build's log."""
    from ci.listings import print_log  # noqa: PLC0415

    print_log(config, build_id, follow=follow, number=attempt)


@main.group(invoke_without_command=True)
@config_option
@json_option
@click.option("--all", "everything", is_flag=True, help="Settled rows as well.")
@click.pass_context
def outbox(ctx: click.Context, config: Path, as_json: bool, everything: bool) -> None:
    """List reviews that are still owed or held back, and why; or act on one."""
    from ci.listings import show_outbox  # noqa: PLC0415

    if ctx.invoked_subcommand is None:
        show_outbox(config, as_json=as_json, everything=everything)
    else:
        # What was given before the verb holds for it too.
        ctx.default_map = {ctx.invoked_subcommand: {"config": config}}


@outbox.command("retry")
@config_option
@click.argument("review", type=int, required=False)
@click.option("--all", "everything", is_flag=True, help="Every pending review.")
def outbox_retry(config: Path, review: int | None, everything: bool) -> None:
    """Try a review, or all of them, again without waiting for its pause."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store import outbox_actions  # noqa: PLC0415

    if (review is None) is not everything:
        raise click.UsageError("give the id of one review, or --all")
    database, at = open_database(config), SystemClock().now()
    if review is None:
        count = outbox_actions.retry_all(database, by=_operator(), at=at)
        click.echo(f"reviews that are due now: {count}")
    else:
        outbox_actions.retry(database, review, by=_operator(), at=at)
        click.echo(f"review {review} is due now")


@outbox.command("drop")
@config_option
@click.argument("review", type=int)
@click.option("--why", required=True, help="For the audit log.")
def outbox_drop(config: Path, review: int, why: str) -> None:
    """Give up a review that is pending or held back."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store import outbox_actions  # noqa: PLC0415

    at = SystemClock().now()
    outbox_actions.drop(open_database(config), review, by=_operator(), why=why, at=at)
    click.echo(f"review {review} is dropped")


@outbox.command("release")
@config_option
@click.argument("review", type=int)
def outbox_release(config: Path, review: int) -> None:
    """Give a review whose negative vote was held back."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store import outbox_actions  # noqa: PLC0415

    at = SystemClock().now()
    stale = outbox_actions.release(open_database(config), review, by=_operator(), at=at)
    click.echo(f"review {review} is {f'dropped: {stale}' if stale else 'released'}")


def _operator() -> str:
    return f"{getpass.getuser()} (command line)"


@main.command()
@config_option
@click.argument("change", type=int)
@click.argument("words", nargs=-1)
@click.option("--connection", help="Which server, where the number is on several.")
def recheck(config: Path, change: int, words: tuple[str, ...], connection: str | None) -> None:
    """Run the newest patch set of a change again; WORDS: a job, a label, a reason."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store.actions import request_recheck  # noqa: PLC0415

    event = request_recheck(
        open_database(config),
        change,
        by=getpass.getuser(),
        words=" ".join(words),
        connection=connection,
        at=SystemClock().now(),
    )
    number = event.patchset.number if event.patchset else 0
    click.echo(f"recheck of {change},{number} is noted; see `hypervouch builds`")


@main.command()
@config_option
@click.argument("build_id")
def cancel(config: Path, build_id: str) -> None:
    """Cancel a build, and the others of its buildset."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store.actions import request_cancel  # noqa: PLC0415

    buildset = request_cancel(
        open_database(config), build_id, by=getpass.getuser(), at=SystemClock().now()
    )
    click.echo(f"buildset {buildset} is cancelled; a running suite stops within seconds")


add_pauses(main, config_option, json_option, _operator)
add_nodes(main, config_option, json_option, _operator)
add_drain(main, config_option, _operator)
add_matrix(main, config_option, _operator)
add_suite(main, asked_to_end_is_ctrl_c)


@main.command()
@config_option
@click.argument("build_id")
@click.option("--why", required=True, help="For the build's page and the audit log.")
def pin(config: Path, build_id: str, why: str) -> None:
    """Keep a build with its logs, whatever its age."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store import pins as kept  # noqa: PLC0415

    kept.pin(open_database(config), build_id, by=_operator(), why=why, at=SystemClock().now())
    click.echo(f"build {build_id} is kept until `hypervouch unpin {build_id}`")


@main.command()
@config_option
@click.argument("build_id")
def unpin(config: Path, build_id: str) -> None:
    """Let retention have a pinned build again."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store import pins as kept  # noqa: PLC0415

    kept.unpin(open_database(config), build_id, by=_operator(), at=SystemClock().now())
    click.echo(f"build {build_id} goes when its time is over")


@main.command()
@config_option
@json_option
def pins(config: Path, as_json: bool) -> None:
    """List pinned builds, and why they are kept."""
    from ci.listings import show_pins  # noqa: PLC0415

    show_pins(config, as_json=as_json)


@main.group(invoke_without_command=True)
@config_option
@json_option
@click.option("--all", "everything", is_flag=True, help="Delivered ones as well.")
@click.pass_context
def notices(ctx: click.Context, config: Path, as_json: bool, everything: bool) -> None:
    """List what reporters have not been told, and why; `notices test NAME` tries one."""
    from ci.listings import show_notices  # noqa: PLC0415

    if ctx.invoked_subcommand is None:
        show_notices(config, as_json=as_json, everything=everything)
    else:
        # What was given before the verb holds for it too.
        ctx.default_map = {ctx.invoked_subcommand: {"config": config}}


@notices.command("test")
@config_option
@click.argument("name")
def notices_test(config: Path, name: str) -> None:
    """Send one test notice to the reporter NAME; what waits for it is then tried at once."""
    from ci.app import load_layout  # noqa: PLC0415
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.notifier import send_trial  # noqa: PLC0415

    for line in send_trial(load_layout(config), name, SystemClock()):
        click.echo(line)


@notices.command("retry")
@config_option
@click.argument("name")
def notices_retry(config: Path, name: str) -> None:
    """Owe the reporter NAME again what was dropped because it refused it."""
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.listings import open_database  # noqa: PLC0415
    from ci.store.notices import revive  # noqa: PLC0415

    with open_database(config).write() as tx:
        count = revive(tx, name, by=_operator(), at=SystemClock().now())
    click.echo(f"dropped notices that {name} is owed again: {count}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The suite's command line, the same as `hypervouch suite compute` and in a CI job."""

import re
import sys
from functools import partial
from pathlib import Path

import click

from ci.errors import ConfigError
from ci.model.feature import Feature
from ci.model.result import Grade

GRADES = [grade.value for grade in Grade if grade is not Grade.NONE]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _features(_context: click.Context, _option: click.Parameter, text: str) -> frozenset[Feature]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    known = {feature.value: feature for feature in Feature}
    if unknown := [key for key in keys if key not in known]:
        raise click.BadParameter(
            f"{', '.join(unknown)}: no such row; see docs/reference/compute-suite.md"
        )
    return frozenset(known[key] for key in keys)


def _fingerprint(_context: click.Context, _option: click.Parameter, text: str) -> str:
    digits = text.replace(":", "").strip().lower()
    if digits and not _SHA256.fullmatch(digits):
        raise click.BadParameter("a SHA-256 is 64 hexadecimal digits, with or without colons")
    return digits


def _password(file: Path | None, variable: str | None) -> str:
    """The password of the API's user; empty where none was named.

    Raises:
        ConfigError: Both were named, or it is not there.
    """
    from ci.layout import SecretRef  # noqa: PLC0415 - only where there is one
    from ci.settings import resolve_secret  # noqa: PLC0415

    if file and variable:
        raise ConfigError("the password is named twice", hint="give its file or its variable")
    if not file and not variable:
        return ""
    return resolve_secret(SecretRef(from_file=file, from_env=variable))


@click.command()
@click.option("--hypervisor", default="", help="URL of what is put to the proof.")
@click.option("--second", default="", help="URL of another host like it, for what takes two.")
@click.option("--key-file", type=_FILE, help="Private key, where the URL leads over SSH.")
@click.option("--known-hosts", type=_FILE, help="File with the host's pinned key.")
@click.option("--password-file", type=_FILE, help="File with the password of the API's user.")
@click.option("--password-env", metavar="NAME", help="Variable with it, instead of a file.")
@click.option("--ca-file", type=_FILE, help="Certificates that sign the API's own.")
@click.option(
    "--certificate",
    default="",
    metavar="SHA256",
    callback=_fingerprint,
    help="Take this certificate of the API and no other.",
)
@click.option("--grade", type=click.Choice(GRADES), help="How real it is.")
@click.option("--real-guests", is_flag=True, help="A simulator's guests really run: ask them.")
@click.option("--features", default="", callback=_features, help="Only these rows, by commas.")
@click.option("--report", type=_PATH, help="Write evidence for `hypervouch matrix add`.")
@click.option("--html", type=_PATH, help="Write a page that can be signed off.")
@click.option("--junit", type=_PATH, help="Write JUnit XML.")
@click.option("--work", type=_PATH, help="Directory for sockets, logs and disks of guests.")
@click.option("--marks", type=_PATH, help="Directory that stays, for notes on what is ours.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=3600),
    default=180.0,
    show_default=True,
    help="Seconds for one call, or one boot.",
)
@click.option("--record", type=_PATH, help="Keep what the API says, without its secrets.")
@click.option("--replay", type=_FILE, help="Ask this recording instead of a hypervisor.")
@click.option("--trouble", type=_PATH, hidden=True)
def compute(  # noqa: PLR0917 - click hands them over by name
    hypervisor: str,
    second: str,
    key_file: Path | None,
    known_hosts: Path | None,
    password_file: Path | None,
    password_env: str | None,
    ca_file: Path | None,
    certificate: str,
    grade: str | None,
    real_guests: bool,  # noqa: FBT001 - click hands it over by name
    features: frozenset[Feature],
    report: Path | None,
    html: Path | None,
    junit: Path | None,
    work: Path | None,
    marks: Path | None,
    timeout: float,
    record: Path | None,
    replay: Path | None,
    trouble: Path | None,
) -> None:
    """Put a hypervisor to the proof, row by row of Nova's support matrix.

    Guests of ours are made there, told what to do, and removed. The exit status is 0 when all
    that was tried works or is unsupported, 1 when something fails, 2 when it could not be tried.
    """
    from ci.jobs.compute.run import Order, run  # noqa: PLC0415 - pytest is slow to import

    order = Order(
        hypervisor=hypervisor,
        second=second,
        work=work,
        marks=marks,
        grade=Grade(grade) if grade else Grade.NONE,
        key_file=key_file,
        known_hosts=known_hosts,
        password=partial(_password, password_file, password_env),
        ca_file=ca_file,
        certificate=certificate,
        real_guests=real_guests,
        timeout_s=timeout,
        features=features,
        report=report,
        html=html,
        junit=junit,
        trouble=trouble,
        record=record,
        replay=replay,
    )
    sys.exit(run(order, click.echo))

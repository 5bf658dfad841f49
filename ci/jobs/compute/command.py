# SPDX-License-Identifier: Apache-2.0
"""The suite's command line, the same as `hypervouch suite compute` and in a CI job."""

import sys
from pathlib import Path

import click

from ci.model.feature import Feature
from ci.model.result import Grade

GRADES = [grade.value for grade in Grade if grade is not Grade.NONE]
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


@click.command()
@click.option("--hypervisor", required=True, help="URL of what is put to the proof.")
@click.option("--second", default="", help="URL of another host like it, for what takes two.")
@click.option("--key-file", type=_FILE, help="Private key, where the URL leads over SSH.")
@click.option("--known-hosts", type=_FILE, help="File with the host's pinned key.")
@click.option("--grade", type=click.Choice(GRADES), help="How real it is.")
@click.option("--features", default="", callback=_features, help="Only these rows, by commas.")
@click.option("--report", type=_PATH, help="Write evidence for `hypervouch matrix add`.")
@click.option("--junit", type=_PATH, help="Write JUnit XML.")
@click.option("--work", type=_PATH, help="Directory for sockets, logs and disks of guests.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=3600),
    default=180.0,
    show_default=True,
    help="Seconds for one call, or one boot.",
)
@click.option("--trouble", type=_PATH, hidden=True)
def compute(  # noqa: PLR0917 - click hands them over by name
    hypervisor: str,
    second: str,
    key_file: Path | None,
    known_hosts: Path | None,
    grade: str | None,
    features: frozenset[Feature],
    report: Path | None,
    junit: Path | None,
    work: Path | None,
    timeout: float,
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
        grade=Grade(grade) if grade else Grade.NONE,
        key_file=key_file,
        known_hosts=known_hosts,
        timeout_s=timeout,
        features=features,
        report=report,
        junit=junit,
        trouble=trouble,
    )
    sys.exit(run(order, click.echo))

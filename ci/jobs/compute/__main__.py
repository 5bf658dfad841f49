# SPDX-License-Identifier: Apache-2.0
"""`python -m ci.jobs.compute`: how a job of the CI starts the suite."""

from ci.jobs.compute.command import compute

if __name__ == "__main__":
    compute()

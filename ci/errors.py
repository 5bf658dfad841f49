# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, named by who must act.

```
HypervouchError(message, hint, retryable)   who acts        Result              vote
  ConfigError                               operator        will not start      -
  StorageError                              operator        waits, retried      -
  ReviewServerError                         review server   event/vote retried  -
  ChangeError: MergeConflict,               author          MERGE_CONFLICT      as configured
               DependencyError
  NodeError: NodeUnavailable, LeaseLost     operator        NODE_FAILURE, LOST  none, retried
                              ClaimLost
  RunError: RunTimeout, HarnessBroken       operator        TIMED_OUT, ERROR    none
  CollectError                              operator        POST_FAILURE        none
  ReporterError: NoticeRefused              receiver        -                   -
  BuildCanceled                             nobody          CANCELED            none
  HypervouchBug                             us              LOST                none, retried
```
A failing test is data, never an exception.
"""


class HypervouchError(Exception):
    """Base of every error this project raises.

    Args:
        message: What went wrong and where, one sentence.
        hint: How to mend it, one sentence; empty where nothing can be done.
        retryable: Whether the same call may succeed later without anybody acting.
    """

    def __init__(self, message: str, *, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HypervouchError):
    """The configuration is wrong; nothing starts until the operator mends it."""


class StorageError(HypervouchError):
    """The disk or the database refused a write; the work waits and is tried again."""


class ReviewServerError(HypervouchError):
    """Gerrit is away, refused us, or dropped what we said."""


class ChangeError(HypervouchError):
    """The change itself cannot be tested."""


class MergeConflict(ChangeError):
    """The patch set does not merge onto the branch tip."""


class DependencyError(ChangeError):
    """What the change depends on cannot be found, followed or merged."""


class NodeError(HypervouchError):
    """A node is at fault; the build is tried on another one."""


class NodeUnavailable(NodeError):
    """No node could be provisioned, reached, or made ready."""


class LeaseLost(NodeError):
    """The lease ended under the build: its results are evidence, not a vote."""


class ClaimLost(LeaseLost):
    """Another process runs the build by now: what this one found is evidence, not a vote."""


class RunError(HypervouchError):
    """The suite could not be run as asked."""


class RunTimeout(RunError):
    """A phase passed its deadline and was killed."""


class HarnessBroken(RunError):
    """The command ended without running a single test."""


class CollectError(HypervouchError):
    """Results or artifacts could not be brought home."""


class ReporterError(HypervouchError):
    """A receiver of notices is away, or refuses us: what it is owed waits.

    Args:
        message: What went wrong and where, one sentence.
        hint: How to mend it, one sentence.
        retryable: Whether waiting may help; else somebody has to act first.
        pause_s: Seconds that the receiver asks us to wait; 0 where it says nothing.
    """

    def __init__(
        self, message: str, *, hint: str = "", retryable: bool = False, pause_s: float = 0.0
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.pause_s = pause_s


class NoticeRefused(ReporterError):
    """The receiver works, and does not take this notice: it is dropped after some tries."""


class BuildCanceled(HypervouchError):
    """The build was cancelled: superseded, abandoned, or by an operator."""


class HypervouchBug(HypervouchError):
    """An error nobody foresaw, wrapped at the edge of a long-running loop."""

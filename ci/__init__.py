# SPDX-License-Identifier: Apache-2.0
"""The flow: event, trigger, build, lease, run, collect, judge, vote; `webui` is the page."""

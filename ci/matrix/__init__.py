# SPDX-License-Identifier: Apache-2.0
"""The matrix of features and hypervisors: evidence beside what Nova declares. Pure.

`cells` makes it, `nova` holds Nova's tables, `report` carries evidence between machines, and
`export` writes it for others: JSON, CSV, one HTML file, Nova's own ini.
"""

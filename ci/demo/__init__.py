# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo`: the whole flow on one machine, with a review server and a driver project."""

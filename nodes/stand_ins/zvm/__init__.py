# SPDX-License-Identifier: Apache-2.0
"""IBM's z/VM Cloud Connector, the real server, off z/VM: CP and SMAPI below it are modelled."""

# SPDX-License-Identifier: Apache-2.0
"""Step 5, how: runners carry a Plan to an Endpoint; chosen by the endpoint's transport."""
